"""The state machine: its table, its fences, its counting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemtune.errors import GemtuneError, IllegalMove, JobIsRunning, NothingTrained, StaleAttempt, StaleClaim
from gemtune.jobs import job as jobs
from gemtune.jobs.job import MOVES, Claim, Failure, Job, Mark, Status, Step, StepRecord

NOW = datetime(2026, 11, 24, tzinfo=UTC)
LEASE = NOW + timedelta(minutes=3)
MINE = Claim(launch=1, execution="mine")
FINAL = {Status.COMPLETED, Status.FAILED, Status.CANCELLED}
TRAINED = {Step.PREPARE: StepRecord(state="done"), Step.TRAIN: StepRecord(state="done"), Step.EXPORT: StepRecord()}


def new(**fields: Any) -> Job:
    given = {
        "job_id": "training_x", "job_name": "x", "status": Status.QUEUED, "modality": "text", "base_model_id": "a/b",
        "processed_dataset_id": "d", "spec_uri": "u", "spec_name": "s", "source": "http", "owner": "local",
        "request_hash": "h", "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    return Job(**(given | fields))


def running(step: Step = Step.PREPARE) -> tuple[Job, Mark]:
    """A claimed job in the first attempt of a step, those before it done."""
    job, _ = jobs.launched(new(), at=NOW, lease=LEASE - NOW)
    job, _ = jobs.claimed(job, MINE)
    for each in jobs.STEPS:
        job, _ = jobs.step_begun(job, each, MINE, execution=f"run-{each}", at=NOW)
        mark = Mark(claim=MINE, step=each, attempt=job.steps[each].attempt)
        if each is step:
            break
        job, _ = jobs.step_done(job, mark, at=NOW)
    return job, mark


@pytest.mark.parametrize("here", list(Status))
@pytest.mark.parametrize("to", list(Status))
def test_only_moves_in_the_table_are_made(here: Status, to: Status) -> None:
    job = new(status=here, steps=TRAINED)
    if to in MOVES.get(here, ()):
        moved, (event,) = jobs.moved(job, to, at=NOW)
        assert (moved.status, event.type, event.seq) == (to, f"job_{to}", 1)
        assert (moved.finished_at is not None) is (to in FINAL)
    else:
        with pytest.raises(IllegalMove):
            jobs.moved(job, to, at=NOW)


def test_only_what_is_trained_goes_from_queued_to_exporting() -> None:
    with pytest.raises(IllegalMove):
        jobs.moved(new(), Status.EXPORTING, at=NOW)
    job, _ = jobs.moved(new(steps=TRAINED), Status.EXPORTING, at=NOW)
    assert job.started_at == NOW


def test_an_export_of_its_own_begins_at_export_and_completes() -> None:
    parent, _ = jobs.cancelled(running(Step.EXPORT)[0], at=NOW)
    job, (event,) = jobs.accepted(new(parent_job_id=parent.job_id, steps=jobs.steps_of_export(parent)))
    assert event.details == {"parent_job_id": "training_x"}
    assert (job.trained_by, parent.trained_by) == ("training_x", "training_x")
    job, _ = jobs.launched(job, at=NOW, lease=LEASE - NOW)
    job, _ = jobs.claimed(job, MINE)
    for step in (Step.PREPARE, Step.TRAIN):
        assert jobs.step_begun(job, step, MINE, execution="x", at=NOW)[0] is job
    job, _ = jobs.step_begun(job, Step.EXPORT, MINE, execution="x", at=NOW)
    job, _ = jobs.step_done(job, Mark(claim=MINE, step=Step.EXPORT, attempt=1), at=NOW)
    assert job.status == "completed"


def test_only_what_is_over_and_trained_is_exported_again() -> None:
    with pytest.raises(JobIsRunning):
        jobs.steps_of_export(running(Step.EXPORT)[0])
    with pytest.raises(NothingTrained):
        jobs.steps_of_export(jobs.cancelled(running(Step.TRAIN)[0], at=NOW)[0])


def test_a_launch_is_taken_once_until_its_lease_ends() -> None:
    first, _ = jobs.launched(new(), at=NOW, lease=LEASE - NOW)
    assert first.launch.number == 1
    assert jobs.launched(first, at=LEASE - timedelta(seconds=1), lease=LEASE - NOW)[0] is first
    assert jobs.launched(first, at=LEASE, lease=LEASE - NOW)[0].launch.number == 2


def test_only_an_execution_of_the_current_launch_is_let_in_and_may_come_again() -> None:
    job, _ = jobs.launched(new(), at=NOW, lease=LEASE - NOW)
    job, _ = jobs.claimed(job, MINE)
    assert jobs.claimed(job, MINE)[0] is job
    for other in (
        Claim(launch=1, execution="other"),
        Claim(launch=0, execution="mine"),
        Claim(launch=2, execution="x"),
    ):
        with pytest.raises(StaleClaim):
            jobs.claimed(job, other)
    relaunched, _ = jobs.relaunched(job, at=NOW, lease_until=LEASE, cause="lost")
    with pytest.raises(StaleClaim):
        jobs.claimed(relaunched, MINE)


def test_an_attempt_that_was_replaced_writes_nothing_more() -> None:
    job, first = running(Step.TRAIN)
    job, _ = jobs.step_begun(job, Step.TRAIN, MINE, execution="again", at=NOW)
    second = first.model_copy(update={"attempt": 2})
    for write in (
        lambda mark: jobs.heartbeat(job, mark, None, NOW),
        lambda mark: jobs.checkpointed(job, mark, train_step=1, at=NOW),
        lambda mark: jobs.recorded(job, mark, []),
        lambda mark: jobs.step_stopped(job, mark, cause="x", at=NOW),
        lambda mark: jobs.step_done(job, mark, at=NOW),
    ):
        with pytest.raises(StaleAttempt):
            write(first)
        write(second)


def test_a_step_that_is_done_is_not_begun_again() -> None:
    job, mark = running()
    job, _ = jobs.step_done(job, mark, at=NOW)
    assert jobs.step_begun(job, Step.PREPARE, MINE, execution="again", at=NOW)[0] is job


def test_a_job_fails_at_the_third_fruitless_attempt_in_a_row() -> None:
    job, _ = running(Step.TRAIN)
    for round in (1, 2, 3):
        assert not job.is_over
        job, events = jobs.judged(job, Step.TRAIN, round=round, cause="killed", at=NOW)
        if round < 3:
            job, _ = jobs.step_begun(job, Step.TRAIN, MINE, execution="x", at=NOW)
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "no_progress")
    assert events[-1].type == "job_failed"


def test_a_newer_checkpoint_makes_an_attempt_count_for_something() -> None:
    job, mark = running(Step.TRAIN)
    for round in range(1, 10):
        job, _ = jobs.checkpointed(job, mark, train_step=round, at=NOW)
        job, _ = jobs.judged(job, Step.TRAIN, round=round, cause=None, at=NOW)
        assert job.steps[Step.TRAIN].fruitless == 0
        job, _ = jobs.step_begun(job, Step.TRAIN, MINE, execution="x", at=NOW)
        mark = Mark(claim=MINE, step=Step.TRAIN, attempt=job.steps[Step.TRAIN].attempt)


def test_a_report_that_comes_twice_counts_once() -> None:
    job, _ = running(Step.TRAIN)
    for _ in range(5):
        job, _ = jobs.judged(job, Step.TRAIN, round=1, cause="killed", at=NOW)
    assert job.steps[Step.TRAIN].fruitless == 1


def test_an_execution_that_dies_before_it_begins_is_counted_too() -> None:
    job, _ = jobs.launched(new(), at=NOW, lease=LEASE - NOW)
    job, _ = jobs.claimed(job, MINE)
    for round in (1, 2, 3):
        job, _ = jobs.judged(job, Step.PREPARE, round=round, cause="no such image", at=NOW)
    assert job.error is not None
    assert "no such image" in job.error.message


def test_why_an_attempt_ended_is_told_when_the_next_begins() -> None:
    job, mark = running(Step.TRAIN)
    job, _ = jobs.step_stopped(job, mark, cause="sigterm", at=NOW)
    assert job.steps[Step.TRAIN].cause == "sigterm"
    job, (event,) = jobs.step_begun(job, Step.TRAIN, MINE, execution="x", at=NOW)
    assert (event.type, event.details) == ("train_restarted", {"attempt": 2, "cause": "sigterm"})
    assert job.steps[Step.TRAIN].cause is None


def test_every_attempt_is_remembered_with_its_seconds_and_why_it_ended() -> None:
    job, mark = running(Step.TRAIN)
    job, _ = jobs.checkpointed(job, mark, train_step=7, at=NOW)
    job, _ = jobs.step_stopped(job, mark, cause="out_of_time", at=NOW + timedelta(seconds=2))
    for number in (2, 3, 4):
        job, _ = jobs.step_begun(job, Step.TRAIN, MINE, execution="x", at=NOW)
        mark = mark.model_copy(update={"attempt": number})
        if number == 2:  # killed, and the platform says so
            job, _ = jobs.judged(job, Step.TRAIN, round=2, cause="code 137", at=NOW + timedelta(seconds=3))
        elif number == 3:  # killed with everything around it
            job = jobs.heartbeat(job, mark, None, NOW + timedelta(seconds=4))
    job, _ = jobs.step_done(job, mark, at=NOW + timedelta(seconds=5))
    assert [(a.attempt, a.seconds, a.cause, a.checkpoint) for a in job.steps[Step.TRAIN].attempts] == [
        (1, 2, "out_of_time", 7), (2, 3, "code 137", 7), (3, 4, "crashed", 7), (4, 5, None, 7),
    ]  # fmt: skip


def test_the_oldest_attempts_are_forgotten_at_last() -> None:
    job, mark = running(Step.TRAIN)
    for number in range(1, jobs.ATTEMPTS_KEPT + 3):
        job, _ = jobs.step_stopped(job, mark.model_copy(update={"attempt": number}), cause="sigterm", at=NOW)
        job, _ = jobs.step_begun(job, Step.TRAIN, MINE, execution="x", at=NOW)
    kept = [attempt.attempt for attempt in job.steps[Step.TRAIN].attempts]
    assert kept == list(range(3, jobs.ATTEMPTS_KEPT + 3))


def test_seconds_of_a_step_are_those_of_all_its_attempts() -> None:
    job, mark = running(Step.TRAIN)
    job = jobs.heartbeat(job, mark, None, NOW + timedelta(seconds=7))  # and then it was killed
    later = NOW + timedelta(minutes=5)
    job, _ = jobs.step_begun(job, Step.TRAIN, MINE, execution="x", at=later)
    job, _ = jobs.step_done(job, mark.model_copy(update={"attempt": 2}), at=later + timedelta(seconds=3))
    assert job.steps[Step.TRAIN].seconds == 10


CHANGES = st.sampled_from(
    ["launch", "claim", "begin", "done", "stop", "judge", "fail", "cancel", "relaunch", "lease", "lost"]
)


def apply(change: str, job: Job, step: Step, number: int, round: int, now: datetime) -> jobs.Changed:
    claim = Claim(launch=number, execution=f"e{number}")
    mark = Mark(claim=claim, step=step, attempt=job.steps[step].attempt)
    if change in ("judge", "relaunch"):
        jobs.check_claim(job, claim)
    todo: dict[str, Any] = {
        "launch": lambda: jobs.launched(job, at=now, lease=timedelta(minutes=3)),
        "lease": lambda: jobs.launch_returned(job, number),
        "lost": lambda: jobs.launch_unclaimed(job, number, cause="failed", at=now),
        "claim": lambda: jobs.claimed(job, claim),
        "begin": lambda: jobs.step_begun(job, step, claim, execution="x", at=now),
        "done": lambda: jobs.step_done(job, mark, at=now),
        "stop": lambda: jobs.step_stopped(job, mark, cause="x", at=now),
        "judge": lambda: jobs.judged(job, step, round=round, cause=None, at=now),
        "fail": lambda: jobs.failed(job, Failure(code="x", message="x"), at=now),
        "cancel": lambda: jobs.cancelled(job, at=now),
        "relaunch": lambda: jobs.relaunched(job, at=now, lease_until=now, cause="x"),
    }
    result: jobs.Changed = todo[change]()
    return result


@given(st.lists(st.tuples(CHANGES, st.sampled_from(jobs.STEPS), st.integers(0, 3)), max_size=40))
def test_no_sequence_of_changes_leaves_a_final_status_or_a_gap_in_the_numbers(
    plan: list[tuple[str, Step, int]],
) -> None:
    job, events = jobs.accepted(new())
    seen, now = list(events), NOW
    for index, (change, step, number) in enumerate(plan):
        now += timedelta(seconds=30)
        try:
            after, more = apply(change, job, step, number, index, now)
        except GemtuneError:
            continue
        if job.is_over:
            assert after.status == job.status
        job = after
        seen += more
    assert [event.seq for event in seen] == list(range(1, job.last_seq + 1))
    assert sum(event.type in {f"job_{status}" for status in FINAL} for event in seen) <= 1
