"""Launched jobs: control, cancel, delete, fan-out and sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from gemtune.admission.platform import PlatformError
from gemtune.errors import JobIsOver, JobIsRunning, JobNotFound, StaleAttempt, StaleClaim
from gemtune.jobs.parts.results import Artifact
from gemtune.jobs.record import Claim, Failure, FencingToken
from gemtune.jobs.status import Step
from gemtune.ports import ExecutionState, Topic
from gemtune.services.advance import Advance
from gemtune.services.control import Ruling
from tests.fakes import World
from tests.handlers.conftest import embedded_only


class Running:
    """One launched and claimed job, driven step by step by the test."""

    def __init__(self, world: World, **fields: Any):
        self.world, self.services = world, world.services
        world.services.bus.subscribe("test", Topic.JOB_STATUS)
        self.job_id = world.submit(**fields)
        world.services.dispatch.launch(self.job_id)
        self.claim = Claim(launch=1, execution="first")
        assert world.services.control.claim(self.job_id, self.claim) is not None

    def begin(self, step: Step, claim: Claim | None = None) -> FencingToken:
        begun = self.services.advance.begin(self.job_id, step, claim or self.claim, execution=f"run-{step}")
        assert begun is not None
        return begun[1]

    def ended(self, step: Step, round_number: int = 1, error: str | None = None) -> str:
        return self.ruling(step, round_number, error).verdict

    def ruling(self, step: Step, round_number: int, error: str | None = None) -> Ruling:
        platform_error = None if error is None else PlatformError(error)
        return self.services.control.step_ended(
            self.job_id, self.claim, step, round_number=round_number, error=platform_error
        )

    def complete(self) -> None:
        for step in Step:
            self.services.advance.finish(self.job_id, self.begin(step))

    @property
    def job(self) -> Any:
        return self.services.store.get(self.job_id)

    @property
    def status(self) -> str:
        return str(self.job.status)


@pytest.fixture
def running(world: World) -> Running:
    return Running(world)


def test_a_job_runs_its_steps_and_each_ends_with_a_verdict(running: Running) -> None:
    for step, status in zip(Step, ("preparing", "training", "exporting"), strict=True):
        fence = running.begin(step)
        assert running.status == status
        running.services.advance.finish(running.job_id, fence)
        assert running.ended(step) == "done"
    assert running.status == "completed"
    assert running.services.control.claim(running.job_id, running.claim) is None


def test_the_plan_has_job_timeout_and_arguments_of_each_step(running: Running) -> None:
    plan = running.services.control.claim(running.job_id, running.claim)
    assert plan is not None
    assert (plan[Step.TRAIN].job, plan[Step.TRAIN].timeout_seconds) == (
        "gemtune-train-l4" if running.services.settings.on_gcp else "gemtune-train-local",
        running.services.settings.train_timeout_seconds,
    )
    assert list(plan[Step.EXPORT].args) == [
        "export",
        "--job-id",
        running.job_id,
        "--launch",
        "1",
        "--execution",
        "first",
        "--seconds",
        "3480",
    ]


ARTIFACT = Artifact(name="model.gguf", uri="gs://export/model.gguf", bytes=3, sha256="0" * 64)
# Records of a running step besides its end: by method of Advance, the argument and the value in the job's record.
RECORDED: Mapping[str, tuple[Mapping[str, Any], Callable[[Any], object], object]] = {
    "record_artifacts": ({"artifacts": [ARTIFACT]}, lambda job: job.artifacts, (ARTIFACT,)),
    "record_checkpoint": ({"train_step": 7}, lambda job: job.steps[Step.TRAIN].checkpoint, 7),
    "record_phase": ({"phase": "evaluating"}, lambda job: job.steps[Step.TRAIN].phase, "evaluating"),
    "record_wandb_url": ({"wandb_url": "https://w/r"}, lambda job: job.wandb_url, "https://w/r"),
}


@embedded_only
def test_whatever_a_step_records_is_in_the_record_even_if_it_fails(running: Running) -> None:
    assert set(RECORDED) == {name for name in vars(Advance) if name.startswith("record_")}
    running.services.advance.finish(running.job_id, running.begin(Step.PREPARE))
    fence = running.begin(Step.TRAIN)
    for name, (arguments, _, _) in RECORDED.items():
        getattr(running.services.advance, name)(running.job_id, fence, **arguments)
    assert {name: read(running.job) for name, (_, read, _) in RECORDED.items()} == {
        name: value for name, (_, _, value) in RECORDED.items()
    }
    running.services.advance.fail(running.job_id, fence, Failure(code="no_disk", message="the disk is full"))
    assert running.job.artifacts == (ARTIFACT,)


def test_the_third_crash_of_a_step_ends_the_job(running: Running) -> None:
    for number, verdict in ((1, "again"), (2, "again"), (3, "stop")):
        running.begin(Step.PREPARE)
        assert running.ended(Step.PREPARE, number, error="code 70") == verdict
    assert running.job.error.code == "no_progress"


def test_a_step_whose_executions_never_begin_fails_the_job(running: Running) -> None:
    """Simulate an image that cannot start, or a process that dies on import."""
    for number, verdict in ((1, "again"), (2, "again"), (3, "stop")):
        assert running.ended(Step.PREPARE, number, error="code 1") == verdict
    assert running.job.error.code == "step_not_begun"
    assert "code 1" in running.job.error.message
    assert "image" in running.job.error.hint
    assert running.job.steps[Step.PREPARE].attempt == 0


def test_retries_wait_longer_after_each_crash_and_not_at_all_after_a_checkpoint(
    running: Running,
) -> None:
    running.services.advance.finish(running.job_id, running.begin(Step.PREPARE))
    waits = []
    for number, train_step in enumerate((0, 0, 5, 5, 9), start=1):
        fence = running.begin(Step.TRAIN)
        running.services.advance.record_checkpoint(running.job_id, fence, train_step=train_step)
        waits.append(running.ruling(Step.TRAIN, number).wait_seconds)
    assert waits == [10, 60, 0, 10, 0]


def test_a_step_that_failed_permanently_stops_the_workflow(running: Running) -> None:
    fence = running.begin(Step.PREPARE)
    running.services.advance.fail(running.job_id, fence, Failure(code="bad_rows", message="row 3: not JSON"))
    assert running.ended(Step.PREPARE) == "stop"
    assert (running.status, running.job.error.code) == ("failed", "bad_rows")


def test_a_step_of_a_cancelled_job_stops_at_its_next_write(running: Running) -> None:
    fence = running.begin(Step.PREPARE)
    running.services.cancel(running.job_id)
    with pytest.raises(StaleClaim):
        running.services.advance.heartbeat(running.job_id, fence)
    with pytest.raises(StaleClaim):
        running.services.advance.finish(running.job_id, fence)
    assert running.ended(Step.PREPARE) == "stop"
    assert running.status == "cancelled"


def test_cancel_stops_the_running_executions_and_is_final(running: Running) -> None:
    running.begin(Step.PREPARE)
    running.services.cancel(running.job_id)
    assert running.world.launcher.stopped_steps == ["run-prepare"]
    assert running.world.launcher.stopped == ["first"]
    with pytest.raises(JobIsOver):
        running.services.cancel(running.job_id)


def test_cancel_succeeds_even_when_the_step_cannot_be_stopped(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.begin(Step.PREPARE)
    monkeypatch.setattr(running.world.launcher, "stop_step", lambda execution: 1 / 0)
    assert running.services.cancel(running.job_id).status == "cancelled"


def test_delete_is_refused_while_the_job_runs_and_leaves_only_a_tombstone(running: Running) -> None:
    with pytest.raises(JobIsRunning):
        running.services.delete(running.job_id)
    export = running.services.buckets.export
    export.write(f"jobs/{running.job_id}/x", b"")
    spec_name = running.job.spec_name
    running.services.cancel(running.job_id)
    running.services.delete(running.job_id)
    assert running.services.buckets.config.stat(spec_name) is None
    assert list(export.list("jobs/")) == []
    with pytest.raises(JobNotFound):
        running.services.delete(running.job_id)
    export.write(f"jobs/{running.job_id}/late", b"")  # by a trainer that has not noticed yet
    running.services.sweep()
    assert list(export.list("jobs/")) == []


def test_each_event_is_published_once_and_in_order(running: Running) -> None:
    running.complete()
    for _ in range(3):
        running.services.fan_out(running.job_id)
    messages = status_messages(running)
    assert [message["seq"] for message in messages] == list(range(1, running.job.last_seq + 1))
    assert messages[-1]["type"] == "job_completed"


def status_messages(running: Running) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    while more := running.world.messages("test"):
        messages += more
    return messages


def test_concurrent_wake_ups_may_repeat_events_but_keep_their_order(running: Running) -> None:
    running.complete()
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: running.services.fan_out(running.job_id), range(24)))
    firsts = list(dict.fromkeys(message["seq"] for message in status_messages(running)))
    assert firsts == list(range(1, running.job.last_seq + 1))


def test_the_sweep_completes_a_fan_out_that_died(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    bus, sent = running.services.bus, []
    publish = type(bus).publish

    def dies_at_the_second(*args: Any, **kwargs: Any) -> str:
        sent.append(1)
        if len(sent) == 2:
            raise ConnectionError
        return publish(*args, **kwargs)

    running.complete()
    with monkeypatch.context() as broken:
        broken.setattr(type(bus), "publish", dies_at_the_second)
        with pytest.raises(ConnectionError):
            running.services.fan_out(running.job_id)
    running.services.sweep()
    firsts = list(dict.fromkeys(message["seq"] for message in status_messages(running)))
    assert firsts == list(range(1, running.job.last_seq + 1))


def test_secrets_are_deleted_with_the_last_event(world: World) -> None:
    running = Running(world, hf_token="hf_fakefakefake")
    running.services.fan_out(running.job_id)
    assert len(world.stored_secrets()) == 1
    assert running.services.advance.secret(running.job, "hf_token") == "hf_fakefakefake"
    assert running.services.advance.secret(running.job, "wandb_api_key") is None
    running.services.cancel(running.job_id)
    running.services.fan_out(running.job_id)
    assert world.stored_secrets() == []


@pytest.mark.parametrize("state", [ExecutionState.FAILED, ExecutionState.SUCCEEDED, ExecutionState.GONE])
def test_an_execution_that_ended_before_its_job_is_replaced_three_times(running: Running, state: Any) -> None:
    claim = running.claim
    for launch in (2, 3, 4):
        fence = running.begin(Step.PREPARE, claim)
        running.world.launcher.states[claim.execution] = state
        running.services.sweep()
        assert running.world.launcher.started[-1] == (running.job_id, launch)
        claim = Claim(launch=launch, execution=f"launch-{launch}")
        assert running.services.control.claim(running.job_id, claim) is not None
        with pytest.raises((StaleClaim, StaleAttempt)):
            running.services.advance.heartbeat(running.job_id, fence)
    running.world.launcher.states[claim.execution] = state
    running.services.sweep()
    assert (running.status, running.job.error.code) == ("failed", "execution_lost")
    assert "was lost 4 times" in running.job.error.message


def test_a_step_without_a_heartbeat_for_its_timeout_is_replaced(running: Running) -> None:
    running.begin(Step.PREPARE)
    running.world.clock.advance(minutes=59)
    running.services.sweep()
    assert running.world.launcher.started == [(running.job_id, 1)]
    running.world.clock.advance(minutes=2)
    running.services.sweep()
    assert running.world.launcher.started[-1] == (running.job_id, 2)
    assert running.world.launcher.stopped_steps == ["run-prepare"]


def test_the_sweep_recovers_other_jobs_next_to_an_unreadable_one(world: World) -> None:
    broken, fine = Running(world), Running(world)
    world.make_unreadable(broken.job_id)
    world.launcher.states["first"] = ExecutionState.FAILED
    world.services.sweep()
    assert (fine.job_id, 2) in world.launcher.started
    shown = world.services.store.page(status=None, modality=None, limit=9, page_token=None).jobs
    assert {job.job_id for job in shown} == {broken.job_id, fine.job_id}


def test_a_step_begun_twice_belongs_to_the_later_one(running: Running) -> None:
    first, second = running.begin(Step.PREPARE), running.begin(Step.PREPARE)
    with pytest.raises(StaleAttempt):
        running.services.advance.finish(running.job_id, first)
    running.services.advance.finish(running.job_id, second)
    assert running.services.advance.begin(running.job_id, Step.PREPARE, running.claim, execution="x") is None


def test_an_unreadable_job_keeps_its_token(world: World) -> None:
    """Keep it, as the job may be one of a newer version."""
    running = Running(world, hf_token="hf_fakefakefake")
    world.make_unreadable(running.job_id)
    world.clock.advance(hours=2)
    world.services.sweep()
    assert len(world.stored_secrets()) == 1


def test_no_second_launch_starts_while_an_execution_waits_to_begin(world: World) -> None:
    job_id = world.submit()
    world.services.dispatch.launch(job_id)
    for _ in range(5):
        world.clock.advance(minutes=10)
        world.services.sweep()
    assert world.launcher.started == [(job_id, 1)]
    world.services.dispatch.launch(job_id)  # its message is redelivered
    assert world.launcher.started == [(job_id, 1)]
    world.launcher.states[f"{job_id}#1"] = ExecutionState.FAILED
    world.services.sweep()
    assert world.launcher.started == [(job_id, 1), (job_id, 2)]


def test_a_launch_without_a_recorded_execution_is_repeated_when_its_lease_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the dispatcher die after it created the execution."""
    job_id = world.submit()
    with monkeypatch.context() as dying:
        dying.setattr("gemtune.jobs.launches.record_execution", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            world.services.dispatch.launch(job_id)
    world.services.dispatch.launch(job_id)
    assert world.launcher.started == [(job_id, 1)]
    world.clock.advance(minutes=4)
    world.services.sweep()
    assert world.launcher.started == [(job_id, 1), (job_id, 2)]


def test_an_execution_that_waits_to_begin_is_stopped_by_cancel(world: World) -> None:
    job_id = world.submit()
    world.services.dispatch.launch(job_id)
    world.services.cancel(job_id)
    assert world.launcher.stopped == [f"{job_id}#1"]


def test_a_job_cancelled_while_its_execution_is_created_stays_cancelled(world: World) -> None:
    job_id = world.submit()
    start = world.launcher.start

    def cancelled_meanwhile(job_id: str, launch: int) -> str:
        world.services.cancel(job_id)
        return start(job_id, launch)

    world.launcher.start = cancelled_meanwhile  # type: ignore[method-assign]
    world.services.dispatch.launch(job_id)
    job = world.services.store.get(job_id)
    assert (job.status, job.launch.execution) == ("cancelled", None)


def test_the_sweep_completes_a_delete_that_died(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    world, services = running.world, running.services
    services.cancel(running.job_id)
    with monkeypatch.context() as broken:
        broken.setattr(type(services.secrets), "delete", lambda *args: 1 / 0)
        broken.setattr(type(services.buckets.config), "delete", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            services.delete(running.job_id)
    assert world.stored_specs() != []
    (marker,) = services.buckets.config.list("new-specs/")
    world.clock.time = marker.updated_at + timedelta(hours=1)
    services.sweep()
    assert world.stored_specs() == []
