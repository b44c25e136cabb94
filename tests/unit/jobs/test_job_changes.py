"""Changes of a job that end a step, attempt or launch; ids and secret names."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest

from gemtune.admission import pauses, waits
from gemtune.errors import JobIsOver, StaleAttempt
from gemtune.jobs import changes, launches, secret_names, steps
from gemtune.jobs import stored as stored_records
from gemtune.jobs.events import EVENT_TYPES
from gemtune.jobs.ids import new_job_id
from gemtune.jobs.parts.metrics import Progress
from gemtune.jobs.parts.plan import Plan
from gemtune.jobs.parts.results import JobWarning, RowsSummary, StepResult
from gemtune.jobs.record import Claim, Failure, FencingToken, Job, StepRecord
from gemtune.jobs.status import STATUS_OF, Status, Step
from tests.unit.jobs.test_job import LEASE, MINE, NOW, new, running

PLAN = Plan.model_construct(machine="l4")
LATER = NOW + timedelta(seconds=5)
FAILURE = Failure(code="bad_rows", message="row 3 is empty")


def test_a_failed_job_ends_the_attempt_that_runs_and_touches_no_other_step() -> None:
    job, _ = running(Step.TRAIN)
    failed, (event,) = changes.fail_job(job, FAILURE, at=LATER)
    train = failed.steps[Step.TRAIN]
    assert (train.state, train.cause, train.seconds) == ("failed", "bad_rows", 5)
    assert [(each.attempt, each.seconds, each.cause) for each in train.attempts] == [(1, 5, "bad_rows")]
    assert failed.steps[Step.PREPARE] == job.steps[Step.PREPARE]
    assert failed.steps[Step.EXPORT] == StepRecord()
    assert failed.error == FAILURE
    assert (event.type, event.details) == ("job_failed", {"code": "bad_rows", "message": "row 3 is empty"})


def test_a_cancelled_job_stops_the_attempt_that_runs_and_touches_no_other_step() -> None:
    job, _ = running(Step.TRAIN)
    cancelled, (event,) = changes.cancel_job(job, at=LATER)
    train = cancelled.steps[Step.TRAIN]
    assert (train.state, train.cause, train.seconds) == ("stopped", "cancelled", 5)
    assert cancelled.steps[Step.PREPARE] == job.steps[Step.PREPARE]
    assert cancelled.steps[Step.EXPORT] == StepRecord()
    assert (event.type, cancelled.finished_at) == ("job_cancelled", LATER)
    with pytest.raises(JobIsOver):
        changes.cancel_job(cancelled, at=LATER)


@pytest.mark.parametrize(("step", "event_type"), [(Step.PREPARE, "prepare_done"), (Step.TRAIN, "train_done")])
def test_the_end_of_a_step_is_an_event_of_its_own(step: Step, event_type: str) -> None:
    job, fence = running(step)
    job, (event,) = steps.finish_step(job, fence, at=LATER)
    assert (event.type, event.at, job.status) == (event_type, LATER, STATUS_OF[step])


def test_a_heartbeat_keeps_the_progress_unless_it_brings_a_newer_one() -> None:
    job, fence = running(Step.TRAIN)
    job = steps.record_heartbeat(job, fence, Progress(train_step=7, loss=1.5), NOW)
    job = steps.record_heartbeat(job, fence, None, LATER)
    assert job.progress == Progress(train_step=7, loss=1.5)
    assert job.steps[Step.TRAIN].heartbeat_at == LATER
    assert steps.record_heartbeat(job, fence, Progress(train_step=8), LATER).progress == Progress(train_step=8)


def test_the_phase_of_an_attempt_ends_with_it() -> None:
    job, fence = running(Step.TRAIN)
    job, events = steps.record_phase(job, fence, phase="training", at=LATER)
    train = job.steps[Step.TRAIN]
    assert (train.phase, train.heartbeat_at, events) == ("training", LATER, ())
    stopped, _ = steps.stop_attempt(job, fence, cause="sigterm", at=LATER)
    finished, _ = steps.finish_step(job, fence, at=LATER)
    failed, _ = changes.fail_job(job, FAILURE, at=LATER)
    assert [each.steps[Step.TRAIN].phase for each in (stopped, finished, failed)] == [None] * 3
    with pytest.raises(StaleAttempt):
        steps.record_phase(stopped, fence, phase="saving", at=LATER)


def test_an_attempt_that_ended_without_a_report_counts_as_crashed() -> None:
    job, _ = running(Step.TRAIN)
    failed_attempt, _ = steps.assess_execution(job, Step.TRAIN, round_number=1, cause=None, at=LATER)
    assert [(each.cause, each.seconds) for each in failed_attempt.steps[Step.TRAIN].attempts] == [("crashed", 5)]
    restarted, _ = steps.begin_attempt(job, Step.TRAIN, MINE, execution="x", at=LATER)
    assert [(each.cause, each.seconds) for each in restarted.steps[Step.TRAIN].attempts] == [("crashed", 5)]


def test_the_newest_checkpoint_never_decreases() -> None:
    job, fence = running(Step.TRAIN)
    for train_step, newest in ((4, 4), (2, 4), (9, 9)):
        job, _ = steps.record_checkpoint(job, fence, train_step=train_step, at=LATER)
        assert job.steps[Step.TRAIN].checkpoint == newest
    assert job.steps[Step.TRAIN].heartbeat_at == LATER


def test_a_new_step_is_pending_and_new_progress_is_zero() -> None:
    fresh = {
        "state": "pending",
        "attempt": 0,
        "execution": None,
        "started_at": None,
        "seconds": 0.0,
        "heartbeat_at": None,
        "cause": None,
        "phase": None,
        "checkpoint": 0,
        "judged": "",
        "judged_checkpoint": 0,
        "fruitless": 0,
        "interruptions": 0,
        "attempts": (),
    }
    assert StepRecord().model_dump() == fresh
    counted = Progress().model_dump(exclude_none=True)
    assert counted == {"train_step": 0, "total_steps": 0, "epoch": 0.0}


def launched() -> Job:
    return launches.take_launch(new(), at=NOW, lease=LEASE - NOW)[0]


def test_an_unclaimed_launch_is_counted_while_it_is_the_current_one() -> None:
    job = launched()
    assert launches.give_up_launch(job, 1, cause="failed", at=NOW)[0].launch.unclaimed == 1
    claimed, _ = launches.claim_launch(job, MINE)
    over, _ = changes.cancel_job(job, at=NOW)
    for other, launch in ((claimed, 1), (over, 1), (job, 0), (job, 2)):
        assert launches.give_up_launch(other, launch, cause="failed", at=NOW) == (other, ())


def test_a_launch_that_did_not_start_is_given_up_while_it_is_the_current_one() -> None:
    job = launched()
    assert launches.return_launch(job, 1)[0].launch.lease_until is None
    claimed, _ = launches.claim_launch(job, MINE)
    for other, launch in ((claimed, 1), (job, 0), (job, 2)):
        assert launches.return_launch(other, launch) == (other, ())


def test_the_execution_of_a_launch_is_remembered_while_it_is_the_current_one() -> None:
    job = launched()
    assert launches.record_execution(job, 1, "e1")[0].launch.execution == "e1"
    over, _ = changes.cancel_job(job, at=NOW)
    for other, launch in ((over, 1), (job, 0), (job, 2)):
        assert launches.record_execution(other, launch, "e1") == (other, ())


def test_leases_double_with_each_unclaimed_launch_and_the_sixth_fails_the_job() -> None:
    job, leases = new(), []
    for number in range(1, 7):
        job, _ = launches.take_launch(job, at=NOW, lease=timedelta(minutes=3))
        assert job.launch.lease_until is not None
        leases.append((job.launch.lease_until - NOW) / timedelta(minutes=3))
        assert (job.launch.number, job.is_over) == (number, False)
        job, _ = launches.give_up_launch(job, number, cause="failed", at=NOW)
    assert leases == [1, 2, 4, 8, 16, 32]
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "never_taken_up")


def test_a_relaunch_revokes_the_claim() -> None:
    job, _ = running(Step.TRAIN)
    job, (event,) = launches.relaunch(job, at=LATER, lease_until=LEASE, cause="lost")
    assert (job.claim, job.launch.number, job.launch.lease_until, job.relaunches) == (None, 2, LEASE, 1)
    assert (event.type, event.details) == ("job_relaunched", {"launch": 2, "cause": "lost"})
    job, _ = launches.claim_launch(job, Claim(launch=2, execution="other"))
    assert launches.relaunch(job, at=LATER, lease_until=LEASE, cause="lost")[0].relaunches == 2


@pytest.mark.parametrize(
    ("dataset", "model", "job_id"),
    [
        ("chats", "google/gemma-3-270m-it", "training_chats_gemma-3-270m-it_0123456789ab"),
        ("dataset_Chats v2", "gs://models/tuned/My_Gemma/", "training_chats-v2_my_gemma_0123456789ab"),
        ("a" * 60, "/srv/models/" + "b" * 60, f"training_{'a' * 20}_{'b' * 20}_0123456789ab"),
        ("日本", "///", "training_x_x_0123456789ab"),
        ("chats", "me/gemma_x", "training_chats_gemma_x_0123456789ab"),
    ],
)
def test_a_job_id_contains_the_dataset_and_the_model(dataset: str, model: str, job_id: str) -> None:
    assert new_job_id(dataset, model, key_hash="0123456789abcdef") == job_id
    random_id = new_job_id(dataset, model, key_hash=None, kind="export")
    assert re.fullmatch(re.escape(job_id[len("training") : -12]) + "[0-9a-f]{12}", random_id.removeprefix("export"))
    assert re.fullmatch(r"[a-z0-9_-]{1,63}", job_id)


def test_the_name_of_a_secret_contains_its_job() -> None:
    name = secret_names.job_secret_name("training_chats_gemma-3_0123", "hf_token", "fedcba")
    assert name == "gemtune-job-training_chats_gemma-3_0123-hf_token-fedcba"
    assert secret_names.job_of_secret(name) == "training_chats_gemma-3_0123"
    job = new(secret_names={"hf_token": name, "wandb_api_key": "gemtune-user-mine"})
    assert secret_names.job_secrets(job) == [name]


def test_secrets_of_a_job_outlive_its_longest_step() -> None:
    """Compare with the limit of Cloud Run, which ends tasks after seven days."""
    assert timedelta(days=8) == secret_names.SECRET_TTL


def test_the_assessment_of_a_step_is_stored_under_its_first_names_and_read_from_them() -> None:
    stored = {"state": "stopped", "attempt": 3, "judged": "3/4", "judged_checkpoint": 7}
    step = StepRecord.model_validate(stored)
    assert (step.last_assessed_report, step.checkpoint_at_last_assessment) == ("3/4", 7)
    assert StepRecord.model_validate(step.model_dump()) == step
    job, _ = running(Step.TRAIN)
    job, _ = steps.assess_execution(job, Step.TRAIN, round_number=1, cause="killed", at=LATER)
    for fields in (stored_records.to_fields(job), json.loads(stored_records.to_json(job))):
        assert (fields["steps"]["train"]["judged"], fields["steps"]["train"]["judged_checkpoint"]) == ("1/1", 0)
        assert "last_assessed_report" not in fields["steps"]["train"]
        assert stored_records.read(job.job_id, fields).steps[Step.TRAIN] == job.steps[Step.TRAIN]


def test_the_details_of_events_are_exactly_the_documented_ones() -> None:
    ended, _ = changes.cancel_job(running(Step.EXPORT)[0], at=NOW)
    child = new(parent_job_id=ended.job_id, steps=changes.steps_of_export(ended))
    warning = JobWarning(code="ends_cut_off", message="2 of 9 rows are cut")
    warned = StepResult(warnings=(warning,), rows=RowsSummary(train=9), plan=PLAN)
    all_events = [
        *changes.accept_job(child)[1],
        *changes.cancel_job(running(Step.TRAIN)[0], at=NOW)[1],
        *changes.fail_job(running(Step.TRAIN)[0], FAILURE, at=NOW)[1],
        *launches.relaunch(running(Step.TRAIN)[0], at=NOW, lease_until=LEASE, cause="lost")[1],
        *steps.finish_step(*running(Step.PREPARE), warned, at=NOW)[1],
        *steps.finish_step(*running(Step.TRAIN), at=NOW)[1],
        *steps.finish_step(*running(Step.EXPORT), at=NOW)[1],
    ]
    claimed, _ = launches.claim_launch(launched(), MINE)
    for step in Step:
        begun, events = steps.begin_attempt(claimed, step, MINE, execution="x", at=NOW)
        again, restart = steps.begin_attempt(begun, step, MINE, execution="y", at=NOW)
        all_events += [*events, *restart]
        fence = FencingToken(claim=MINE, step=step, attempt=again.steps[step].attempt)
        claimed, _ = steps.finish_step(again, fence, at=NOW)
    queued, _ = launches.claim_launch(launched(), MINE)
    waiting, waits_begin = waits.wait_for_slot(queued, MINE, machine="l4", position=1, at=NOW)
    paused, pause = pauses.request_pause(waiting, reason="request", at=NOW)
    admitted = steps.begin_attempt(waiting, Step.PREPARE, MINE, execution="x", at=NOW)[1]
    all_events += [*waits_begin, *pause, *pauses.resume(paused, at=NOW)[1], *admitted]
    written = {event.type: set(event.details) for event in all_events}
    assert written == {name: set(each.details) for name, each in EVENT_TYPES.items() if name != "unknown"}
