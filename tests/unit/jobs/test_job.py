"""The state machine of a job: moves, claims, attempts and fruitless attempts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gemtune.errors import (
    GemtuneError,
    IllegalMove,
    JobIsRunning,
    NothingTrained,
    RecordInvalid,
    StaleAttempt,
    StaleClaim,
)
from gemtune.jobs import changes, launches, status, steps, stored
from gemtune.jobs.parts.metrics import Metrics
from gemtune.jobs.parts.results import Artifact, JobWarning, StepResult
from gemtune.jobs.record import Claim, Failure, FencingToken, Job, StepRecord
from gemtune.jobs.status import Status, Step

NOW = datetime(2026, 11, 24, tzinfo=UTC)
LEASE = NOW + timedelta(minutes=3)
MINE = Claim(launch=1, execution="mine")
FINAL = {Status.COMPLETED, Status.FAILED, Status.CANCELLED}
TRAINED = {Step.PREPARE: StepRecord(state="done"), Step.TRAIN: StepRecord(state="done"), Step.EXPORT: StepRecord()}


def new(**fields: Any) -> Job:
    defaults = {
        "job_id": "training_x",
        "job_name": "x",
        "status": Status.QUEUED,
        "modality": "text",
        "base_model_id": "a/b",
        "processed_dataset_id": "d",
        "spec_uri": "u",
        "spec_name": "s",
        "source": "http",
        "owner": "local",
        "request_hash": "h",
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Job(**(defaults | fields))


def running(step: Step = Step.PREPARE) -> tuple[Job, FencingToken]:
    """Return a claimed job in the first attempt of a step, and its token.

    The steps before it are done.
    """
    job, _ = launches.take_launch(new(), at=NOW, lease=LEASE - NOW)
    job, _ = launches.claim_launch(job, MINE)
    for each in status.STEPS:
        job, _ = steps.begin_attempt(job, each, MINE, execution=f"run-{each}", at=NOW)
        fence = FencingToken(claim=MINE, step=each, attempt=job.steps[each].attempt)
        if each is step:
            break
        job, _ = steps.finish_step(job, fence, at=NOW)
    return job, fence


# A second copy of the table of moves. y: allowed; t: allowed if the job has trained; .: not allowed.
TABLE = """
from \\ to     queued preparing training exporting paused completed failed cancelled unknown
queued        .      y         t        t         y      .         y      y         .
preparing     .      .         y        .         y      .         y      y         .
training      .      .         .        y         y      .         y      y         .
exporting     .      .         .        .         y      y         y      y         .
paused        y      .         .        .         .      .         y      y         .
completed     .      .         .        .         .      .         .      .         .
failed        .      .         .        .         .      .         .      .         .
cancelled     .      .         .        .         .      .         .      .         .
unknown       .      .         .        .         .      .         .      y         .
"""
_, _, _, *COLUMNS = TABLE.splitlines()[1].split()
PAIRS = {
    (row.split()[0], to): move
    for row in TABLE.splitlines()[2:]
    for to, move in zip(COLUMNS, row.split()[1:], strict=True)
}


def test_the_table_has_every_pair_of_statuses() -> None:
    assert set(PAIRS) == {(origin.value, to.value) for origin in Status for to in Status}


@pytest.mark.parametrize(("origin", "to"), PAIRS)
@pytest.mark.parametrize("has_trained", [True, False])
def test_exactly_the_moves_of_the_table_are_possible(origin: str, to: str, has_trained: bool) -> None:
    job = new(status=origin, **({"steps": TRAINED} if has_trained else {}))
    if PAIRS[origin, to] == "y" or (PAIRS[origin, to] == "t" and has_trained):
        moved, (event,) = changes.change_status(job, Status(to), at=NOW)
        assert (moved.status, event.type, event.status, event.seq) == (to, f"job_{to}", to, 1)
        assert moved.finished_at == (NOW if to in ("completed", "failed", "cancelled") else None)
        assert moved.started_at == (NOW if to in ("preparing", "training", "exporting") else None)
    else:
        with pytest.raises(IllegalMove):
            changes.change_status(job, Status(to), at=NOW)


@pytest.mark.parametrize("to", list(Status))
def test_a_status_of_a_newer_version_can_only_be_cancelled(to: Status) -> None:
    job = new(status="suspended")
    if to is Status.CANCELLED:
        assert changes.change_status(job, to, at=NOW)[0].status == "cancelled"
    else:
        with pytest.raises(IllegalMove):
            changes.change_status(job, to, at=NOW)


@pytest.mark.parametrize(
    ("job_status", "is_over"),
    [
        ("queued", False),
        ("preparing", False),
        ("training", False),
        ("exporting", False),
        ("unknown", False),
        ("paused", False),
        ("suspended", False),
        ("completed", True),
        ("failed", True),
        ("cancelled", True),
    ],
)
def test_a_job_is_over_by_its_status_or_if_that_is_unknown_by_its_end(job_status: str, is_over: bool) -> None:
    assert new(status=job_status).is_over is is_over
    ended = new(status=job_status, finished_at=NOW)
    assert ended.is_over is (is_over or job_status in ("unknown", "suspended"))
    assert {str(each) for each in status.FINAL} == {"completed", "failed", "cancelled"}
    assert {str(each) for each in status.UNFINISHED} == {"queued", "preparing", "training", "exporting", "paused"}


def test_a_job_begins_with_its_first_event() -> None:
    job, (event,) = changes.accept_job(new())
    assert (event.type, event.status, event.seq, event.at, event.details) == ("job_queued", "queued", 1, NOW, {})
    assert (job.last_seq, job.status, job.started_at) == (1, Status.QUEUED, None)


def test_an_export_job_begins_at_export_and_completes() -> None:
    parent, _ = changes.cancel_job(running(Step.EXPORT)[0], at=NOW)
    job, (event,) = changes.accept_job(new(parent_job_id=parent.job_id, steps=changes.steps_of_export(parent)))
    assert event.details == {"parent_job_id": "training_x"}
    assert (job.trained_by, parent.trained_by) == ("training_x", "training_x")
    job, _ = launches.take_launch(job, at=NOW, lease=LEASE - NOW)
    job, _ = launches.claim_launch(job, MINE)
    for step in (Step.PREPARE, Step.TRAIN):
        assert steps.begin_attempt(job, step, MINE, execution="x", at=NOW)[0] is job
    job, _ = steps.begin_attempt(job, Step.EXPORT, MINE, execution="x", at=NOW)
    job, _ = steps.finish_step(job, FencingToken(claim=MINE, step=Step.EXPORT, attempt=1), at=NOW)
    assert job.status == "completed"


def test_only_a_trained_job_that_is_over_can_be_exported_again() -> None:
    with pytest.raises(JobIsRunning):
        changes.steps_of_export(running(Step.EXPORT)[0])
    with pytest.raises(NothingTrained):
        changes.steps_of_export(changes.cancel_job(running(Step.TRAIN)[0], at=NOW)[0])


def test_a_launch_is_taken_once_until_its_lease_ends() -> None:
    first, _ = launches.take_launch(new(), at=NOW, lease=LEASE - NOW)
    assert first.launch.number == 1
    assert launches.take_launch(first, at=LEASE - timedelta(seconds=1), lease=LEASE - NOW)[0] is first
    assert launches.take_launch(first, at=LEASE, lease=LEASE - NOW)[0].launch.number == 2


def test_only_one_execution_of_the_current_launch_claims_the_job_any_number_of_times() -> None:
    job, _ = launches.take_launch(new(), at=NOW, lease=LEASE - NOW)
    job, _ = launches.claim_launch(job, MINE)
    assert launches.claim_launch(job, MINE)[0] is job
    for other in (
        Claim(launch=1, execution="other"),
        Claim(launch=0, execution="mine"),
        Claim(launch=2, execution="x"),
    ):
        with pytest.raises(StaleClaim):
            launches.claim_launch(job, other)
    relaunched, _ = launches.relaunch(job, at=NOW, lease_until=LEASE, cause="lost")
    with pytest.raises(StaleClaim):
        launches.claim_launch(relaunched, MINE)


def test_a_replaced_attempt_can_write_nothing() -> None:
    job, first = running(Step.TRAIN)
    job, _ = steps.begin_attempt(job, Step.TRAIN, MINE, execution="again", at=NOW)
    second = first.model_copy(update={"attempt": 2})
    for write in (
        lambda fence: steps.record_heartbeat(job, fence, None, NOW),
        lambda fence: steps.record_checkpoint(job, fence, train_step=1, at=NOW),
        lambda fence: steps.record_artifacts(job, fence, []),
        lambda fence: steps.stop_attempt(job, fence, cause="x", at=NOW),
        lambda fence: steps.finish_step(job, fence, at=NOW),
    ):
        with pytest.raises(StaleAttempt):
            write(first)
        write(second)


@pytest.mark.parametrize(
    "wrong", [{"metrics": "not metrics"}, {"adapter_path": 7}, {"artifacts": "a.bin"}, {"adapter": "a typo"}]
)
def test_a_result_of_the_wrong_type_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        StepResult(**wrong)


def test_a_step_keeps_results_that_it_does_not_deliver_itself() -> None:
    job, fence = running(Step.TRAIN)
    delivered = StepResult(
        metrics=Metrics(eval_loss=1.5), artifacts=(Artifact(name="a", uri="u", bytes=1, sha256="h"),)
    )
    job, _ = steps.finish_step(job, fence, delivered, at=NOW)
    assert (job.metrics, job.artifacts, job.adapter_path) == (delivered.metrics, delivered.artifacts, None)
    job, _ = steps.begin_attempt(job, Step.EXPORT, MINE, execution="x", at=NOW)
    fence = FencingToken(claim=MINE, step=Step.EXPORT, attempt=1)
    job, (event,) = steps.finish_step(job, fence, StepResult(adapter_path="adapter"), at=NOW)
    assert (job.metrics, job.artifacts, job.adapter_path) == (delivered.metrics, delivered.artifacts, "adapter")
    assert event.details == {"adapter_path": "adapter"}


def test_warnings_of_a_step_are_in_the_record_and_in_its_event() -> None:
    job, fence = running(Step.PREPARE)
    warning = JobWarning(code="ends_cut_off", message="2 of 9 rows are cut", hint="raise max_seq_length")
    job, (event,) = steps.finish_step(job, fence, StepResult(warnings=(warning,)), at=NOW)
    assert job.warnings == (warning,)
    assert (event.type, event.details) == ("prepare_done", {"warnings": [warning.model_dump()]})
    silent, (event,) = steps.finish_step(*running(Step.PREPARE), at=NOW)
    assert (silent.warnings, event.details) == ((), {})


def test_a_step_that_is_done_is_not_begun_again() -> None:
    job, fence = running()
    job, _ = steps.finish_step(job, fence, at=NOW)
    assert steps.begin_attempt(job, Step.PREPARE, MINE, execution="again", at=NOW)[0] is job


def test_a_job_fails_at_the_third_fruitless_attempt_in_a_row() -> None:
    job, _ = running(Step.TRAIN)
    for number in (1, 2, 3):
        assert not job.is_over
        job, events = steps.assess_execution(job, Step.TRAIN, round_number=number, cause="killed", at=NOW)
        if number < 3:
            job, _ = steps.begin_attempt(job, Step.TRAIN, MINE, execution="x", at=NOW)
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "no_progress")
    assert events[-1].type == "job_failed"


def test_an_attempt_with_a_newer_checkpoint_is_not_fruitless() -> None:
    job, fence = running(Step.TRAIN)
    for number in range(1, 10):
        job, _ = steps.record_checkpoint(job, fence, train_step=number, at=NOW)
        job, _ = steps.assess_execution(job, Step.TRAIN, round_number=number, cause=None, at=NOW)
        assert job.steps[Step.TRAIN].fruitless == 0
        job, _ = steps.begin_attempt(job, Step.TRAIN, MINE, execution="x", at=NOW)
        fence = FencingToken(claim=MINE, step=Step.TRAIN, attempt=job.steps[Step.TRAIN].attempt)


def interrupted(job: Job, times: int) -> Job:
    """End attempts by SIGTERM before they have a newer checkpoint."""
    for _ in range(times):
        number = job.steps[Step.TRAIN].attempt
        fence = FencingToken(claim=MINE, step=Step.TRAIN, attempt=number)
        job, _ = steps.stop_attempt(job, fence, cause="sigterm", at=NOW)
        job, _ = steps.assess_execution(job, Step.TRAIN, round_number=number, cause=None, at=NOW)
        if not job.is_over:
            job, _ = steps.begin_attempt(job, Step.TRAIN, MINE, execution="x", at=NOW)
    return job


def test_interruptions_by_the_platform_are_not_crashes() -> None:
    job = interrupted(running(Step.TRAIN)[0], steps.INTERRUPTED_ATTEMPTS - 1)
    assert not job.is_over
    assert (job.steps[Step.TRAIN].fruitless, job.steps[Step.TRAIN].interruptions) == (0, 19)
    job = interrupted(job, 1)
    assert job.error is not None
    assert job.error.code == "no_progress"
    assert "ended 20 times in a row" in job.error.message


def test_a_newer_checkpoint_forgets_the_interruptions() -> None:
    job = interrupted(running(Step.TRAIN)[0], 5)
    fence = FencingToken(claim=MINE, step=Step.TRAIN, attempt=6)
    job, _ = steps.record_checkpoint(job, fence, train_step=1, at=NOW)
    job, _ = steps.assess_execution(job, Step.TRAIN, round_number=6, cause="killed", at=NOW)
    assert (job.steps[Step.TRAIN].fruitless, job.steps[Step.TRAIN].interruptions) == (0, 0)


def test_executions_that_die_before_they_begin_after_an_interruption_are_crashes() -> None:
    job, fence = running(Step.TRAIN)
    job, _ = steps.stop_attempt(job, fence, cause="sigterm", at=NOW)
    for number in (1, 2, 3, 4):
        assert not job.is_over
        job, _ = steps.assess_execution(job, Step.TRAIN, round_number=number, cause="no such image", at=NOW)
    assert job.is_over


def test_a_repeated_report_counts_once() -> None:
    job, _ = running(Step.TRAIN)
    for _ in range(5):
        job, _ = steps.assess_execution(job, Step.TRAIN, round_number=1, cause="killed", at=NOW)
    assert job.steps[Step.TRAIN].fruitless == 1


def test_an_execution_that_dies_before_its_step_begins_counts_as_fruitless() -> None:
    job, _ = launches.take_launch(new(), at=NOW, lease=LEASE - NOW)
    job, _ = launches.claim_launch(job, MINE)
    for number in (1, 2, 3):
        job, _ = steps.assess_execution(job, Step.PREPARE, round_number=number, cause="no such image", at=NOW)
    assert job.error is not None
    assert "no such image" in job.error.message


def test_the_event_of_a_restart_contains_the_cause_of_the_last_end() -> None:
    job, fence = running(Step.TRAIN)
    job, _ = steps.stop_attempt(job, fence, cause="sigterm", at=NOW)
    assert (job.steps[Step.TRAIN].state, job.steps[Step.TRAIN].cause) == ("stopped", "sigterm")
    job, (event,) = steps.begin_attempt(job, Step.TRAIN, MINE, execution="x", at=NOW)
    assert (event.type, event.details) == ("train_restarted", {"attempt": 2, "cause": "sigterm"})
    assert job.steps[Step.TRAIN].cause is None


def test_the_record_lists_every_attempt_with_seconds_cause_and_checkpoint() -> None:
    job, fence = running(Step.TRAIN)
    job, _ = steps.record_checkpoint(job, fence, train_step=7, at=NOW)
    job, _ = steps.stop_attempt(job, fence, cause="out_of_time", at=NOW + timedelta(seconds=2))
    for number in (2, 3, 4):
        job, _ = steps.begin_attempt(job, Step.TRAIN, MINE, execution="x", at=NOW)
        fence = fence.model_copy(update={"attempt": number})
        if number == 2:  # killed, as reported by the platform
            job, _ = steps.assess_execution(
                job, Step.TRAIN, round_number=2, cause="code 137", at=NOW + timedelta(seconds=3)
            )
        elif number == 3:  # killed without any report
            job = steps.record_heartbeat(job, fence, None, NOW + timedelta(seconds=4))
    job, _ = steps.finish_step(job, fence, at=NOW + timedelta(seconds=5))
    assert [(a.attempt, a.seconds, a.cause, a.checkpoint) for a in job.steps[Step.TRAIN].attempts] == [
        (1, 2, "out_of_time", 7),
        (2, 3, "code 137", 7),
        (3, 4, "crashed", 7),
        (4, 5, None, 7),
    ]


def test_the_oldest_of_more_than_200_attempts_are_dropped() -> None:
    job, fence = running(Step.TRAIN)
    for number in range(1, 203):
        job, _ = steps.stop_attempt(job, fence.model_copy(update={"attempt": number}), cause="sigterm", at=NOW)
        job, _ = steps.begin_attempt(job, Step.TRAIN, MINE, execution="x", at=NOW)
    attempts = [attempt.attempt for attempt in job.steps[Step.TRAIN].attempts]
    assert attempts == list(range(3, 203))


def test_seconds_of_a_step_are_those_of_all_its_attempts() -> None:
    job, fence = running(Step.TRAIN)
    job = steps.record_heartbeat(job, fence, None, NOW + timedelta(seconds=7))  # and then it was killed
    later = NOW + timedelta(minutes=5)
    job, _ = steps.begin_attempt(job, Step.TRAIN, MINE, execution="x", at=later)
    job, _ = steps.finish_step(job, fence.model_copy(update={"attempt": 2}), at=later + timedelta(seconds=3))
    assert job.steps[Step.TRAIN].seconds == 15  # its next heartbeat was due after 5 seconds


CHANGES = st.sampled_from(
    ["launch", "claim", "begin", "done", "stop", "judge", "fail", "cancel", "relaunch", "lease", "lost"]
)


def apply(change: str, job: Job, step: Step, number: int, round_number: int, now: datetime) -> changes.Changed:
    claim = Claim(launch=number, execution=f"e{number}")
    fence = FencingToken(claim=claim, step=step, attempt=job.steps[step].attempt)
    if change in ("judge", "relaunch"):
        launches.check_claim(job, claim)
    actions: dict[str, Any] = {
        "launch": lambda: launches.take_launch(job, at=now, lease=timedelta(minutes=3)),
        "lease": lambda: launches.return_launch(job, number),
        "lost": lambda: launches.give_up_launch(job, number, cause="failed", at=now),
        "claim": lambda: launches.claim_launch(job, claim),
        "begin": lambda: steps.begin_attempt(job, step, claim, execution="x", at=now),
        "done": lambda: steps.finish_step(job, fence, at=now),
        "stop": lambda: steps.stop_attempt(job, fence, cause="x", at=now),
        "judge": lambda: steps.assess_execution(job, step, round_number=round_number, cause=None, at=now),
        "fail": lambda: changes.fail_job(job, Failure(code="x", message="x"), at=now),
        "cancel": lambda: changes.cancel_job(job, at=now),
        "relaunch": lambda: launches.relaunch(job, at=now, lease_until=now, cause="x"),
    }
    result: changes.Changed = actions[change]()
    return result


@given(st.lists(st.tuples(CHANGES, st.sampled_from(status.STEPS), st.integers(0, 3)), max_size=40))
def test_no_sequence_of_changes_leaves_a_final_status_or_a_gap_in_the_numbers(
    plan: list[tuple[str, Step, int]],
) -> None:
    job, events = changes.accept_job(new())
    all_events, now = list(events), NOW
    for index, (change, step, number) in enumerate(plan):
        now += timedelta(seconds=30)
        try:
            after, more = apply(change, job, step, number, index, now)
        except GemtuneError:
            continue
        if job.is_over:
            assert after.status == job.status
        job = after
        all_events += more
    assert [event.seq for event in all_events] == list(range(1, job.last_seq + 1))
    assert sum(event.type in {f"job_{status}" for status in FINAL} for event in all_events) <= 1


LATER = NOW + timedelta(seconds=40)


def test_every_write_of_an_attempt_is_a_sign_of_life() -> None:
    job, fence = running(Step.TRAIN)
    written = {
        "a heartbeat": steps.record_heartbeat(job, fence, None, LATER),
        "a checkpoint": steps.record_checkpoint(job, fence, train_step=3, at=LATER)[0],
        "its end": steps.stop_attempt(job, fence, cause="sigterm", at=LATER)[0],
        "the end of its step": steps.finish_step(job, fence, at=LATER)[0],
    }
    assert {name: changed.steps[Step.TRAIN].heartbeat_at for name, changed in written.items()} == dict.fromkeys(
        written, LATER
    )


def test_a_step_adds_up_seconds_to_milliseconds() -> None:
    job, fence = running()
    job, _ = steps.stop_attempt(job, fence, cause="sigterm", at=NOW, ran=1.23456)
    assert (job.steps[Step.PREPARE].seconds, job.steps[Step.PREPARE].attempts[0].seconds) == (1.235, 1.235)


def test_the_page_of_a_training_at_wandb_is_recorded_also_after_the_attempt_ended() -> None:
    job, fence = running(Step.TRAIN)
    job, events = steps.record_wandb_url(job, fence, wandb_url="https://wandb.ai/a/b")
    assert (job.wandb_url, events) == ("https://wandb.ai/a/b", ())
    same, events = steps.record_wandb_url(job, fence, wandb_url="https://wandb.ai/a/b")
    assert (same, events) == (job, ())
    ended, _ = steps.stop_attempt(job, fence, cause="sigterm", at=NOW)
    moved, _ = steps.record_wandb_url(ended, fence, wandb_url="https://wandb.ai/a/c")
    assert moved.wandb_url == "https://wandb.ai/a/c"


def test_the_page_of_an_attempt_that_was_replaced_is_refused() -> None:
    job, fence = running(Step.TRAIN)
    job, _ = steps.begin_attempt(job, Step.TRAIN, MINE, execution="second", at=NOW)
    with pytest.raises(StaleAttempt):
        steps.record_wandb_url(job, fence, wandb_url="https://wandb.ai/a/b/runs/old")


def test_an_error_about_a_value_that_cannot_be_stored_does_not_repeat_it() -> None:
    job = new().model_copy(update={"job_name": "half a character: \ud800"})
    with pytest.raises(RecordInvalid) as raised:
        stored.to_json(job)
    assert "a value in it cannot be stored" in raised.value.message
    assert "half a character" not in raised.value.message


def test_a_record_is_changed_by_copies_only() -> None:
    job, _ = running(Step.TRAIN)
    for frozen in (job, job.steps[Step.TRAIN], job.launch, changes.accept_job(new())[1][0]):
        for name in type(frozen).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(frozen, name, None)


def test_a_step_shows_whether_its_newest_attempt_runs_stopped_or_finished() -> None:
    job, fence = running(Step.TRAIN)
    killed, _ = steps.assess_execution(job, Step.TRAIN, round_number=1, cause="code 137", at=NOW)
    states = {
        "begun": job,
        "stopped": steps.stop_attempt(job, fence, cause="sigterm", at=NOW)[0],
        "killed": killed,
        "begun again": steps.begin_attempt(killed, Step.TRAIN, MINE, execution="x", at=NOW)[0],
        "finished": steps.finish_step(job, fence, at=NOW)[0],
        "failed": changes.fail_job(job, Failure(code="x", message="x"), at=NOW)[0],
        "cancelled": changes.cancel_job(job, at=NOW)[0],
    }
    assert {name: each.steps[Step.TRAIN].state for name, each in states.items()} == {
        "begun": "running",
        "stopped": "stopped",
        "killed": "stopped",
        "begun again": "running",
        "finished": "done",
        "failed": "failed",
        "cancelled": "stopped",
    }
    assert {name: each.running_step for name, each in states.items() if each.running_step is not None} == {
        "begun": Step.TRAIN,
        "begun again": Step.TRAIN,
    }
