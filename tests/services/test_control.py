"""Answers of control to the workflow: intervals, stale executions, slots."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from gemtune.admission.platform import PlatformError
from gemtune.admission.slots import ASKED_AGAIN, MAX_WAITING, SlotTable
from gemtune.errors import JobIsOver
from gemtune.jobs.parts.holds import Pause
from gemtune.jobs.record import Claim, Failure
from gemtune.jobs.status import Step
from gemtune.ports import ExecutionState
from gemtune.services.control import FOR_PLATFORM, FOR_SLOTS, FOR_SLOTS_ON_WORKSTATION, Intervals
from gemtune.services.machine_slots import SILENCE, MachineSlots
from tests.fakes import World
from tests.services.test_running import Running
from tests.services.test_waiting import PENDING, QUOTA, prepared, verdict

WEEK = timedelta(days=7)


def machine_of(world: World) -> str:
    return world.services.settings.machines[0]


def holders(world: World, machine: str) -> dict[str, int]:
    """Return the launch of each job that holds a slot and needs it."""
    table = world.services.slots.table(machine)
    return {holder.job_id: holder.launch for holder in table.holders if holder.free_at is None}


def relaunched(running: Running) -> Claim:
    """Let the job's execution be lost, and return the claim of the next one."""
    running.world.launcher.states[running.claim.execution] = ExecutionState.FAILED
    running.services.sweep()
    number = running.job.launch.number
    claim = Claim(launch=number, execution=f"launch-{number}")
    assert running.services.control.claim(running.job_id, claim) is not None
    return claim


@pytest.mark.parametrize(
    ("intervals", "seconds"),
    [(FOR_SLOTS, (10, 10, 30, 300)), (FOR_PLATFORM, (30, 30, 30, 600)), (FOR_SLOTS_ON_WORKSTATION, (0.5, 0.8, 5, 5))],
)
def test_a_waiting_job_asks_again_after_a_twentieth_of_its_wait(
    intervals: Intervals, seconds: tuple[float, ...]
) -> None:
    waits = (timedelta(), timedelta(seconds=16.5), timedelta(minutes=10), WEEK)
    assert tuple(intervals.after(waited) for waited in waits) == seconds


def test_a_week_of_waiting_takes_about_2100_questions() -> None:
    waited, questions = timedelta(), 0
    while waited < WEEK:
        waited += timedelta(seconds=FOR_SLOTS.after(waited))
        questions += 1
    assert questions == pytest.approx(2100, rel=0.02)


def test_an_execution_that_was_replaced_is_told_to_stop_before_every_step(world: World) -> None:
    running = prepared(world)
    claim = relaunched(running)
    assert [verdict(running, step) for step in Step] == ["stop"] * 3
    running.claim = claim
    assert [verdict(running, step) for step in Step][:2] == ["done", "run"]


@pytest.mark.parametrize("end", ["done", "failed", "cancelled", "paused"])
def test_a_step_that_has_ended_gives_its_slot_back(world: World, end: str) -> None:
    running, advance = prepared(world), world.services.advance
    assert verdict(running) == "run"
    assert holders(world, machine_of(world)) == {running.job_id: 1}
    fence = running.begin(Step.TRAIN)
    if end == "done":
        advance.finish(running.job_id, fence)
    elif end == "failed":
        advance.fail(running.job_id, fence, Failure(code="x", message="x"))
    elif end == "cancelled":
        world.services.cancel(running.job_id)
    else:
        world.services.pause(running.job_id)
        advance.stop(running.job_id, fence, cause="paused")
    assert running.ended(Step.TRAIN) == ("done" if end == "done" else "stop")
    assert holders(world, machine_of(world)) == {}


@pytest.mark.parametrize("error", [None, "code 137", "Quota exceeded", "host maintenance"])
def test_a_step_that_is_done_is_done_however_its_execution_ended(world: World, error: str | None) -> None:
    running = prepared(world)
    assert running.ended(Step.PREPARE, error=error) == "done"
    prepare = running.job.steps[Step.PREPARE]
    assert (prepare.state, prepare.fruitless, running.job.waiting) == ("done", 0, None)


def test_the_slot_of_a_step_whose_end_was_never_reported_is_given_back(world: World) -> None:
    running = prepared(world)
    assert verdict(running) == "run"
    world.services.advance.finish(running.job_id, running.begin(Step.TRAIN))
    assert verdict(running) == "done"
    assert holders(world, machine_of(world)) == {}


def test_an_execution_that_was_replaced_gives_back_its_own_slots_only(world: World) -> None:
    running = prepared(world)
    assert verdict(running) == "run"
    claim = relaunched(running)
    assert running.ended(Step.TRAIN) == "stop"
    assert holders(world, machine_of(world)) == {}
    old, running.claim = running.claim, claim
    assert verdict(running) == "run"
    running.claim = old
    assert running.ended(Step.TRAIN) == "stop"
    assert holders(world, machine_of(world)) == {running.job_id: 2}


def test_a_job_that_is_cancelled_while_it_asks_for_a_slot_gets_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, ask = prepared(world), MachineSlots.ask

    def cancelled_meanwhile(self: MachineSlots, *args: Any, **options: Any) -> int:
        position = ask(self, *args, **options)
        world.services.cancel(running.job_id)
        return position

    monkeypatch.setattr(MachineSlots, "ask", cancelled_meanwhile)
    assert verdict(running) == "stop"
    assert world.services.slots.table(machine_of(world)).holders == ()


def test_a_step_is_done_even_if_its_duration_cannot_be_recorded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    running = prepared(world)
    monkeypatch.setattr(type(world.services.planner), "record", lambda *args: 1 / 0)
    assert running.ended(Step.PREPARE) == "done"


@pytest.mark.parametrize(("error", "stopped"), [(QUOTA, 0), (PENDING, 1)])
def test_only_an_execution_that_may_still_begin_is_stopped(world: World, error: PlatformError, stopped: int) -> None:
    running = prepared(world)
    assert verdict(running) == "run"
    control = world.services.control
    ruling = control.step_ended(running.job_id, running.claim, Step.TRAIN, round_number=1, error=error)
    assert (ruling.verdict, len(world.launcher.stopped_jobs)) == ("again", stopped)


def test_a_step_that_dies_before_it_begins_is_tried_again_after_the_time_of_a_crash(world: World) -> None:
    first, second = prepared(world), prepared(world)
    assert (verdict(first), verdict(second)) == ("run", "wait")
    first.services.advance.finish(first.job_id, first.begin(Step.TRAIN))
    assert first.ended(Step.TRAIN) == "done"
    assert (verdict(second), second.job.waiting.reason) == ("run", "starting")
    assert second.ruling(Step.TRAIN, 1, error="no such image").wait_seconds == 10


@pytest.mark.parametrize(
    ("export_machine", "export"), [(None, ("export", "gemtune-export")), ("l4", ("export-l4", "gemtune-export-l4"))]
)
def test_each_step_runs_on_its_kind_of_machine(
    world: World, export_machine: str | None, export: tuple[str, str]
) -> None:
    running = prepared(world)
    change = {"machine": "h100", "export_machine": export_machine}
    world.services.store.update(running.job_id, lambda job: (job.model_copy(update=change), ()))
    plan = world.services.control.claim(running.job_id, running.claim)
    assert plan is not None
    assert {step: (job.machine, job.job) for step, job in plan.items()} == {
        Step.PREPARE: ("prepare", "gemtune-prepare"),
        Step.TRAIN: ("h100", "gemtune-train-h100"),
        Step.EXPORT: export,
    }


def test_a_pause_that_is_still_due_begins_when_the_next_step_is_asked_for(world: World) -> None:
    running = prepared(world)
    assert verdict(running) == "run"
    pause = Pause(reason="request", at=world.clock.now())
    world.services.store.update(running.job_id, lambda job: (job.model_copy(update={"pause": pause}), ()))
    assert verdict(running) == "stop"
    assert (running.status, running.job.pause) == ("paused", pause)
    assert holders(world, machine_of(world)) == {}


def test_a_job_that_is_over_keeps_no_hold(world: World) -> None:
    first, second = prepared(world), prepared(world)
    assert (verdict(first), verdict(second)) == ("run", "wait")
    first.begin(Step.TRAIN)
    world.services.pause(first.job_id)
    for running in (first, second):
        world.services.cancel(running.job_id)
        assert (running.job.waiting, running.job.admission, running.job.pause) == (None, None, None)
        with pytest.raises(JobIsOver):
            world.services.resume(running.job_id)


def sweep_slots(world: World) -> None:
    for repair in world.services.sweep.unused_slots(world.clock.now()):
        repair.run()


def test_the_sweep_leaves_a_new_slot_alone_for_a_minute(world: World) -> None:
    """Wait for its job's record, which is written after the slot is taken."""
    running, slots = prepared(world), world.services.slots
    slots.ask(running.job, "h100", launch=2)
    world.clock.advance(seconds=59)
    sweep_slots(world)
    assert holders(world, "h100") == {running.job_id: 2}
    world.clock.advance(seconds=1)
    sweep_slots(world)
    assert holders(world, "h100") == {}


@pytest.mark.parametrize(
    ("use", "stays"),
    [
        ("about to run", True),
        ("runs", True),
        ("on another machine", False),
        ("of an older launch", False),
        ("paused", False),
        ("cancelled", False),
        ("deleted", False),
        ("unreadable", True),
    ],
)
def test_the_sweep_takes_back_slots_that_the_record_shows_no_use_for(world: World, use: str, stays: bool) -> None:
    running, services = prepared(world), world.services
    slots, job = services.slots, running.job
    if use in ("about to run", "runs"):
        assert verdict(running) == "run"
    if use == "runs":
        running.begin(Step.TRAIN)
    if use == "on another machine":
        assert services.control.admit(running.job_id, running.claim, Step.EXPORT).verdict == "run"
    if use == "of an older launch":
        relaunched(running)
    if use == "paused":
        services.pause(running.job_id)
    if use in ("cancelled", "deleted"):
        services.cancel(running.job_id)
    if use == "deleted":
        services.delete(running.job_id)
    if use == "unreadable":
        world.make_unreadable(running.job_id)
    slots.ask(job, machine_of(world), launch=1)
    world.clock.advance(minutes=2)
    sweep_slots(world)
    assert holders(world, machine_of(world)) == ({running.job_id: 1} if stays else {})
    world.clock.advance(minutes=2)
    sweep_slots(world)  # what a step may still use is free a little later
    other = prepared(world)
    assert verdict(other) == ("wait" if stays else "run")


@pytest.mark.parametrize(("minutes", "stays"), [(30, True), (31, False)])
def test_a_job_that_has_not_asked_for_half_an_hour_loses_its_place(world: World, minutes: int, stays: bool) -> None:
    first, second = prepared(world), prepared(world)
    assert (verdict(first), verdict(second)) == ("run", "wait")
    world.clock.advance(minutes=minutes)
    sweep_slots(world)
    assert [waiter.job_id for waiter in world.services.slots.table(machine_of(world)).waiting] == (
        [second.job_id] if stays else []
    )
    verdict(second)
    assert second.job.waiting.position == 1


def test_a_sweep_writes_a_queue_once_and_keeps_who_asks_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Firestore takes about one write of a document per second."""
    jobs = [prepared(world) for _ in range(5)]
    assert [verdict(running) for running in jobs] == ["run", *["wait"] * 4]
    cancelled, asking = jobs[1], jobs[-1]
    world.clock.advance(minutes=31)
    verdict(cancelled)
    monkeypatch.setattr(MachineSlots, "leave_all", lambda *args, **options: None)
    world.services.cancel(cancelled.job_id)
    update, writes = MachineSlots._update, []

    def counted(slots: MachineSlots, machine: str, change: Callable[[SlotTable], SlotTable]) -> None:
        writes.append(machine)
        if len(writes) == 1:
            verdict(asking)
        update(slots, machine, change)

    monkeypatch.setattr(MachineSlots, "_update", counted)
    sweep_slots(world)
    table = world.services.slots.table(machine_of(world))
    assert [waiter.job_id for waiter in table.waiting] == [asking.job_id]
    assert len(writes) == 2  # the second is the question of the job that asks


def test_a_full_queue_asks_for_few_writes_and_a_job_that_asks_is_not_silent() -> None:
    assert MAX_WAITING / ASKED_AGAIN.total_seconds() < 1  # a document of Firestore takes about one write per second
    assert ASKED_AGAIN + timedelta(seconds=FOR_SLOTS.most) < SILENCE


def test_a_kind_of_machine_has_one_slot_unless_its_number_is_set(world: World) -> None:
    jobs = []
    for _ in range(3):
        jobs.append(prepared(world).job)
        world.clock.advance(seconds=1)
    assert [world.services.slots.ask(job, "h100", launch=1).position for job in jobs] == [0, 1, 2]
    two = MachineSlots(world.services.shared, world.services.store, world.clock, {"a100": 2})
    assert [two.ask(job, "a100", launch=1).position for job in jobs] == [0, 0, 1]
