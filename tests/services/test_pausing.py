"""Pause and resume, on both backends."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gemtune.admission.platform import PlatformError
from gemtune.errors import CannotPause, JobIsOver, JobNotFound, JobNotPaused, StaleClaim
from gemtune.jobs.record import Claim
from gemtune.jobs.secret_names import SECRET_TTL
from gemtune.jobs.status import Step
from gemtune.ports import ExecutionState
from tests.fakes import World
from tests.services.test_running import Running


@pytest.fixture
def running(world: World) -> Running:
    return Running(world)


def types(running: Running) -> list[str]:
    return [event.type for event in running.services.store.events(running.job_id)]


def resumed(running: Running) -> None:
    """Resume the job, and claim it for its new launch."""
    running.services.resume(running.job_id)
    assert running.status == "queued"
    running.services.dispatch.launch(running.job_id)
    running.claim = Claim(launch=running.job.launch.number, execution=f"launch-{running.job.launch.number}")
    assert running.services.control.claim(running.job_id, running.claim) is not None


def test_a_queued_job_is_paused_at_once_and_is_not_launched(world: World) -> None:
    job_id = world.submit()
    paused = world.services.pause(job_id)
    assert (paused.status, paused.pause and paused.pause.reason, paused.started_at) == ("paused", "request", None)
    world.services.dispatch.launch(job_id)  # its message comes late
    world.clock.advance(hours=1)
    world.services.sweep()
    assert world.launcher.started == []
    assert world.services.pause(job_id).status == "paused"
    world.services.resume(job_id)
    world.services.dispatch.launch(job_id)
    assert world.launcher.started == [(job_id, 1)]


def test_a_training_pauses_at_its_checkpoint_and_goes_on_from_there(running: Running) -> None:
    services = running.services
    services.advance.finish(running.job_id, running.begin(Step.PREPARE))
    assert services.control.admit(running.job_id, running.claim, Step.TRAIN).verdict == "run"
    fence = running.begin(Step.TRAIN)
    assert services.advance.heartbeat(running.job_id, fence) is False
    assert services.pause(running.job_id).status == "training"
    assert services.advance.heartbeat(running.job_id, fence) is True
    services.advance.record_checkpoint(running.job_id, fence, train_step=7)
    services.advance.stop(running.job_id, fence, cause="paused")
    assert running.status == "paused"
    assert running.ended(Step.TRAIN) == "stop"
    machine = services.settings.machines[0]
    assert services.slots.table(machine).holders == ()
    resumed(running)
    assert services.control.admit(running.job_id, running.claim, Step.PREPARE).verdict == "done"
    assert services.control.admit(running.job_id, running.claim, Step.TRAIN).verdict == "run"
    running.begin(Step.TRAIN)
    assert (running.status, running.job.steps[Step.TRAIN].checkpoint, running.job.pause) == ("training", 7, None)
    assert types(running)[-4:] == ["job_paused", "job_resumed", "job_training", "train_restarted"]


def test_a_step_that_dies_while_it_is_to_pause_is_paused(running: Running) -> None:
    running.begin(Step.PREPARE)
    running.services.pause(running.job_id)
    assert running.ended(Step.PREPARE, error="code -9") == "stop"
    assert (running.status, running.job.steps[Step.PREPARE].fruitless) == ("paused", 0)


def test_a_job_whose_execution_is_lost_while_it_is_to_pause_is_paused(running: Running) -> None:
    fence = running.begin(Step.PREPARE)
    running.services.pause(running.job_id)
    running.world.launcher.states["first"] = ExecutionState.FAILED
    running.services.sweep()
    assert running.status == "paused"
    assert running.world.launcher.started == [(running.job_id, 1)]
    with pytest.raises(StaleClaim):
        running.services.advance.heartbeat(running.job_id, fence)


def test_a_step_that_begins_after_the_request_does_not_run(running: Running) -> None:
    """Let the execution be about to begin when its user pauses the job."""
    services = running.services
    services.control.admit(running.job_id, running.claim, Step.PREPARE)
    assert services.pause(running.job_id).status == "paused"
    assert running.world.launcher.stopped == ["first"]
    assert running.world.launcher.stopped_jobs == [("gemtune-prepare", running.job_id)]
    with pytest.raises(StaleClaim):
        running.begin(Step.PREPARE)
    assert services.control.admit(running.job_id, running.claim, Step.PREPARE).verdict == "stop"


def test_a_step_that_is_restarted_while_its_job_is_to_pause_does_not_run(running: Running) -> None:
    """Let the platform restart the process of a step that was killed."""
    running.begin(Step.PREPARE)
    running.services.pause(running.job_id)
    begun = running.services.advance.begin(running.job_id, Step.PREPARE, running.claim, execution="run-again")
    assert begun is None
    prepare = running.job.steps[Step.PREPARE]
    assert (running.status, prepare.state, prepare.attempt) == ("paused", "stopped", 1)
    assert [attempt.cause for attempt in prepare.attempts] == ["crashed"]


def test_a_training_that_ends_before_it_pauses_is_paused_before_its_export(running: Running) -> None:
    running.services.advance.finish(running.job_id, running.begin(Step.PREPARE))
    fence = running.begin(Step.TRAIN)
    running.services.pause(running.job_id)
    running.services.advance.finish(running.job_id, fence)
    assert (running.status, running.job.has_trained) == ("paused", True)
    assert running.ended(Step.TRAIN) == "stop"
    resumed(running)
    running.services.advance.finish(running.job_id, running.begin(Step.EXPORT))
    assert running.status == "completed"


def test_a_pause_can_be_withdrawn_while_the_step_still_runs(running: Running) -> None:
    fence = running.begin(Step.PREPARE)
    running.services.pause(running.job_id)
    running.services.resume(running.job_id)
    assert (running.status, running.services.advance.heartbeat(running.job_id, fence)) == ("preparing", False)
    with pytest.raises(JobNotPaused):
        running.services.resume(running.job_id)


def test_a_request_can_pause_its_job_after_prepare(world: World) -> None:
    running = Running(world, pause_after="prepare")
    running.services.advance.finish(running.job_id, running.begin(Step.PREPARE))
    assert (running.status, running.job.pause.reason) == ("paused", "prepare")
    assert types(running)[-2:] == ["prepare_done", "job_paused"]
    resumed(running)
    running.services.advance.finish(running.job_id, running.begin(Step.TRAIN))
    running.services.advance.finish(running.job_id, running.begin(Step.EXPORT))
    assert running.status == "completed"


def test_a_job_that_its_user_pauses_during_prepare_pauses_once(world: World) -> None:
    running = Running(world, pause_after="prepare")
    fence = running.begin(Step.PREPARE)
    running.services.pause(running.job_id)
    running.services.advance.finish(running.job_id, fence)
    assert (running.status, running.job.pause.reason) == ("paused", "request")
    resumed(running)
    running.services.advance.finish(running.job_id, running.begin(Step.TRAIN))
    assert types(running).count("job_paused") == 1


def test_an_export_cannot_be_paused_and_a_job_that_is_over_cannot_either(running: Running) -> None:
    for step in (Step.PREPARE, Step.TRAIN):
        running.services.advance.finish(running.job_id, running.begin(step))
    fence = running.begin(Step.EXPORT)
    with pytest.raises(CannotPause):
        running.services.pause(running.job_id)
    running.services.advance.finish(running.job_id, fence)
    for change in (running.services.pause, running.services.resume):
        with pytest.raises(JobIsOver):
            change(running.job_id)


@pytest.mark.parametrize("end", ["cancel", "delete"])
def test_a_paused_job_can_be_cancelled_and_deleted(world: World, end: str) -> None:
    running = Running(world, hf_token="hf_fakefakefake")
    running.services.pause(running.job_id)
    if end == "cancel":
        assert running.services.cancel(running.job_id).status == "cancelled"
        assert running.job.pause is None
    running.services.delete(running.job_id)
    with pytest.raises(JobNotFound):
        running.services.resume(running.job_id)
    assert world.stored_secrets() == []


@pytest.mark.parametrize("hold", ["paused", "waiting for a slot", "waiting for the platform"])
def test_secrets_live_as_long_as_a_job_waits(world: World, hold: str) -> None:
    blocker = Running(world)
    blocker.services.control.admit(blocker.job_id, blocker.claim, Step.PREPARE)
    world.services.control.slots.capacities["prepare"] = 1 if hold == "waiting for a slot" else 2  # type: ignore[index]
    running = Running(world, hf_token="hf_fakefakefake")
    ruling = running.services.control.admit(running.job_id, running.claim, Step.PREPARE)
    assert ruling.verdict == ("wait" if hold == "waiting for a slot" else "run")
    if hold == "paused":
        running.services.pause(running.job_id)
    if hold == "waiting for the platform":
        running.services.control.step_ended(
            running.job_id, running.claim, Step.PREPARE, round_number=1, error=PlatformError("Quota exceeded")
        )
    for _ in range(10):
        world.clock.advance(days=3, hours=1)
        world.services.sweep()
        assert running.services.advance.secret(running.job, "hf_token") == "hf_fakefakefake"
    assert timedelta(days=30) > SECRET_TTL
