"""Waiting for machines: order, capacity, and a platform that has none."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gemtune.admission.platform import PlatformError
from gemtune.admission.slots import SlotTable
from gemtune.errors import CannotPause, JobIsOver, JobIsRunning, JobNotFound, JobNotPaused
from gemtune.jobs.parts.plan import StepEstimate
from gemtune.jobs.parts.results import StepResult
from gemtune.jobs.record import Claim
from gemtune.jobs.status import Step
from gemtune.ports import ExecutionState
from gemtune.services.machine_slots import MachineSlots
from tests.fakes import World, reading
from tests.services.simulation import Outage, Run, Simulation
from tests.services.test_running import Running

QUOTA = PlatformError("Quota exceeded for GPU allocation", 9, ("OperationError",))
PENDING = PlatformError("the call timed out", None, ("TimeoutError",))


def prepared(world: World, **fields: Any) -> Running:
    running = Running(world, **fields)
    running.services.advance.finish(running.job_id, running.begin(Step.PREPARE))
    return running


def verdict(running: Running, step: Step = Step.TRAIN) -> str:
    return running.services.control.admit(running.job_id, running.claim, step).verdict


def types(running: Running) -> list[str]:
    return [event.type for event in running.services.store.events(running.job_id)]


def planned(world: World, seconds: float) -> Running:
    """Return a prepared job whose training is planned to take this long."""
    running = Running(world)
    spec, facts = world.services.submit.rehearse(reading(), owner="local")
    estimate = StepEstimate(key="k", seconds=seconds, basis="measured", jobs=3)
    plan = world.services.planner.of_request(spec, facts).model_copy(update={"steps": {"train": estimate}})
    running.services.advance.finish(running.job_id, running.begin(Step.PREPARE), StepResult(plan=plan))
    return running


def test_a_job_behind_a_training_of_more_years_than_a_date_can_have_waits_without_an_estimate(world: World) -> None:
    first, second = planned(world, 1e13), prepared(world)
    assert verdict(first) == "run"
    first.begin(Step.TRAIN)
    assert verdict(second) == "wait"
    assert second.job.waiting.estimated_start is None


def test_a_wait_has_an_estimated_end_by_the_plans_of_the_jobs_before_it(world: World) -> None:
    jobs = []
    for seconds in (3600, 1800, 60, None, None):
        world.clock.advance(seconds=1)  # the order of their acceptance
        jobs.append(prepared(world) if seconds is None else planned(world, seconds))
    first, second, third, unplanned, last = jobs
    begin = world.clock.now()
    assert verdict(first) == "run"
    fence = first.begin(Step.TRAIN)
    for each in (second, third, unplanned, last):
        assert verdict(each) == "wait"
    starts = [each.job.waiting.estimated_start for each in (second, third, unplanned, last)]
    hour, half = timedelta(hours=1), timedelta(minutes=30)
    assert starts == [begin + hour, begin + hour + half, begin + hour + half + timedelta(minutes=1), None]
    # The first one stops at a checkpoint, and its next execution is expected to take the rest.
    world.clock.advance(seconds=600)
    first.services.advance.stop(first.job_id, fence, cause="out_of_time")
    assert first.ended(Step.TRAIN) == "again"
    assert verdict(first) == "run"
    assert verdict(second) == "wait"
    assert second.job.waiting.estimated_start == begin + hour
    # An estimate that changes little stays, so that the record is not written at each question.
    version = second.job.version
    world.clock.advance(seconds=30)
    assert verdict(second) == "wait"
    assert second.job.version == version
    # The first one takes longer than planned: nobody knows.
    world.clock.advance(hours=1)
    assert verdict(second) == "wait"
    assert second.job.waiting.estimated_start is None


def test_a_second_training_waits_until_the_first_has_ended(world: World) -> None:
    first, second = prepared(world), prepared(world)
    assert (verdict(first), verdict(second)) == ("run", "wait")
    fence = first.begin(Step.TRAIN)
    machine = world.services.settings.machines[0]
    waiting = second.job.waiting
    assert (waiting.machine, waiting.reason, waiting.position) == (machine, "slot", 1)
    shown = world.services.store.page(status=None, modality=None, limit=9, page_token=None).jobs
    assert {job.job_id: job.waiting for job in shown} == {first.job_id: None, second.job_id: waiting}
    world.clock.advance(hours=2)
    assert verdict(second) == "wait"
    assert second.job.waiting == waiting
    first.services.advance.finish(first.job_id, fence)
    assert first.ended(Step.TRAIN) == "done"
    assert (verdict(second), second.job.waiting.reason) == ("run", "starting")
    second.begin(Step.TRAIN)
    assert second.job.waiting is None
    assert types(second)[-3:] == ["job_waiting", "job_admitted", "job_training"]
    admitted = world.services.store.events(second.job_id)[-2]
    assert admitted.details == {"machine": machine, "waited_seconds": 7200}


def test_a_step_that_continues_in_another_execution_keeps_its_slot(world: World) -> None:
    first, second = prepared(world), prepared(world)
    assert verdict(first) == "run"
    fence = first.begin(Step.TRAIN)
    assert verdict(second) == "wait"
    first.services.advance.record_checkpoint(first.job_id, fence, train_step=5)
    first.services.advance.stop(first.job_id, fence, cause="out_of_time")
    assert first.ended(Step.TRAIN) == "again"
    assert (verdict(second), verdict(first)) == ("wait", "run")


@pytest.mark.parametrize("end", ["cancel", "pause"])
def test_a_waiting_job_that_is_ended_gives_up_its_place(world: World, end: str) -> None:
    first, second, third = (prepared(world) for _ in range(3))
    assert [verdict(each) for each in (first, second, third)] == ["run", "wait", "wait"]
    getattr(world.services, end)(second.job_id)
    assert (verdict(second), second.job.waiting) == ("stop", None)
    verdict(third)
    assert third.job.waiting.position == 1
    getattr(world.services, end)(first.job_id)  # its step has not begun
    assert verdict(third) == "wait"  # the execution that was about to begin is still ending
    world.clock.advance(seconds=16)
    assert verdict(third) == "run"


def test_the_sweep_takes_back_what_a_lost_job_held(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = prepared(world), prepared(world)
    assert (verdict(first), verdict(second)) == ("run", "wait")
    with monkeypatch.context() as dying:  # the service dies between the record and the slots
        dying.setattr(type(world.services.slots), "leave_all", lambda *args, **kwargs: 1 / 0)
        world.services.cancel(first.job_id)
        world.services.cancel(second.job_id)
    third = prepared(world)
    assert verdict(third) == "wait"
    world.clock.advance(minutes=2)
    world.services.sweep()
    world.clock.advance(seconds=20)
    assert verdict(third) == "run"


def test_a_platform_without_machines_makes_a_job_wait_for_as_long_as_it_takes(world: World) -> None:
    running = prepared(world)
    waits = []
    for number in range(1, 60):
        assert verdict(running) == "run"
        ruling = running.services.control.step_ended(
            running.job_id, running.claim, Step.TRAIN, round_number=number, error=QUOTA if number % 3 else PENDING
        )
        assert ruling.verdict == "again"
        waits.append(ruling.wait_seconds)
        world.clock.advance(seconds=ruling.wait_seconds)
        world.services.sweep()
    assert waits == sorted(waits)
    assert (waits[0], sum(waits) > 3600) == (30, True)
    job = running.job
    assert (running.status, job.waiting.reason, job.steps[Step.TRAIN].fruitless) == ("preparing", "quota", 0)
    assert types(running).count("job_waiting") == 1
    assert ("gemtune-train-" + world.services.settings.machines[0], running.job_id) in world.launcher.stopped_jobs
    running.begin(Step.TRAIN)
    assert (running.status, running.job.waiting) == ("training", None)


def test_a_machine_taken_for_maintenance_is_no_failure_of_the_step(world: World) -> None:
    running = prepared(world)
    for number in range(1, 9):
        assert verdict(running) == "run"
        running.begin(Step.TRAIN)
        error = PlatformError("the instance was ended for host maintenance", 9, ("OperationError",))
        ended = running.services.control.step_ended(
            running.job_id, running.claim, Step.TRAIN, round_number=number, error=error
        )
        assert ended.verdict == "again"
    step = running.job.steps[Step.TRAIN]
    assert (step.state, step.fruitless, step.cause) == ("stopped", 0, "maintenance")


@pytest.mark.parametrize("step", [Step.TRAIN, Step.EXPORT])
def test_a_job_whose_machine_is_not_deployed_any_more_waits_until_it_is(world: World, step: Step) -> None:
    running, field = prepared(world), "machine" if step is Step.TRAIN else "export_machine"
    store, control = world.services.store, world.services.control
    if step is Step.EXPORT:
        running.services.advance.finish(running.job_id, running.begin(Step.TRAIN))
    store.update(running.job_id, lambda job: (job.model_copy(update={field: "rtx-pro-6000"}), ()))
    waits = []
    for _ in range(9):
        ruling = control.admit(running.job_id, running.claim, step)
        assert ruling.verdict == "wait"
        waits.append(ruling.wait_seconds)
        world.clock.advance(seconds=ruling.wait_seconds)
        world.services.sweep()
    assert waits == sorted(waits)
    assert waits[0] == 30
    machine = "rtx-pro-6000" if step is Step.TRAIN else "export-rtx-pro-6000"
    waiting = running.job.waiting
    assert (waiting.machine, waiting.reason, waiting.position) == (machine, "not_deployed", 0)
    assert types(running).count("job_waiting") == 1
    deployed = replace(control, machines=(*control.machines, "rtx-pro-6000"))
    assert deployed.admit(running.job_id, running.claim, step).verdict == "run"
    assert running.job.waiting.reason == "starting"
    running.begin(step)
    assert (running.job.waiting, types(running).count("job_admitted")) == (None, 1)


def test_cancelling_ends_an_execution_that_has_not_begun(world: World) -> None:
    running = prepared(world)
    assert verdict(running) == "run"
    running.services.cancel(running.job_id)
    machine = world.services.settings.machines[0]
    assert world.launcher.stopped_jobs == [(f"gemtune-train-{machine}", running.job_id)]


def test_a_lost_execution_does_not_count_while_its_job_waits(world: World) -> None:
    blocker, running = prepared(world), prepared(world)
    assert (verdict(blocker), verdict(running)) == ("run", "wait")
    for launch in range(2, 9):
        world.launcher.states[running.claim.execution] = ExecutionState.FAILED
        world.services.sweep()
        running.claim = Claim(launch=launch, execution=f"launch-{launch}")
        assert running.services.control.claim(running.job_id, running.claim) is not None
        assert verdict(running) == "wait"
    assert running.job.relaunches == 0


class CheckedSlots(MachineSlots):
    """Slots that check that no job overtakes another."""

    def _update(self, machine: str, change: Callable[[SlotTable], SlotTable]) -> None:
        """Change a table.

        A job gets a slot only if there is one for all that wait before it, too.
        """

        def checked(before: SlotTable) -> SlotTable:
            after = change(before)
            admitted = {holder.job_id for holder in after.holders} - {holder.job_id for holder in before.holders}
            for job_id in admitted:
                accepted_at = self.store.get(job_id).created_at
                ahead = [waiter for waiter in before.waiting if waiter.accepted_at < accepted_at]
                held = [holder for holder in before.holders if holder.free_at is None]
                assert len(held) + len(ahead) < 2, f"{job_id} overtook {ahead}"
            return after

        super()._update(machine, checked)


class Crowd(Simulation):
    """Forty jobs on two slots; most of the time the platform has a quota."""

    def __post_init__(self) -> None:
        super().__post_init__()
        services = self.services
        self.machine = services.settings.machines[0]
        kinds = {self.machine: 2, "prepare": 2, "export": 2}
        services.__dict__["slots"] = CheckedSlots(services.shared, services.store, services.clock, kinds)
        for use_case in ("control", "pause", "resume", "cancel", "sweep", "_stop_executions"):
            services.__dict__.pop(use_case, None)
        self.running: dict[Step, set[str]] = {step: set() for step in Step}
        self.most: dict[Step, int] = dict.fromkeys(Step, 0)
        self.deleted: set[str] = set()

    def stop_step(self, execution: str) -> None:
        """Stop it; the generator of its workflow is dropped already."""

    def stop_steps(self, cloud_run_job: str, job_id: str) -> None:
        """Stop them; the generator of the workflow is dropped already."""

    def _supervised(self, job_id: str, claim: Claim, step: Step) -> Run:
        """Run a step without crashes of its own, unless there is no quota."""
        if self.luck.bad(0.2):
            yield
            return "Quota exceeded for GPU allocation"
        self.running[step].add(job_id)
        self.most[step] = max(self.most[step], len(self.running[step]))
        assert len(self.running[step]) <= 2
        try:
            yield from self._slowly(self._trainer(job_id, claim, step))
        except Outage:
            pass  # it crashed
        finally:
            self.running[step].discard(job_id)
        return None

    def _slowly(self, trainer: Run) -> Generator[None, None, None]:
        duration = random.Random(self.chance.random())
        while True:
            try:
                next(trainer)
            except StopIteration:
                return
            for _ in range(duration.randrange(4)):
                yield

    def _written(self, write: Any) -> Any:
        return write()

    def kill_everything(self) -> None:
        """End every process; executions that were active run again from main."""
        for execution in self.executions.values():
            claim = Claim(launch=execution.launch, execution=execution.name)
            execution.run.close()
            execution.run = self._workflow(execution.job_id, claim)
        self.asking.clear()

    def change(self, name: str) -> None:
        """Pause, resume, cancel or delete some job, as far as that is allowed."""
        job_id = self.chance.choice(self.jobs)
        try:
            getattr(self.services, name)(job_id)
        except (JobIsOver, JobIsRunning, JobNotFound, CannotPause, JobNotPaused):
            return
        if name == "delete":
            self.deleted.add(job_id)


@pytest.mark.timeout(300)
def test_forty_jobs_on_two_slots(world: World) -> None:
    crowd = Crowd(world, seed=7)
    while len(crowd.jobs) < 40:
        crowd.submit()
        world.clock.advance(seconds=1)
    actions = ["proceed"] * 40 + ["deliver"] * 12 + ["pause"] + ["resume"] * 2 + ["sweep"] + ["wait"] * 2
    for number, action in enumerate(crowd.chance.choices(actions, k=1500)):
        if action in ("pause", "resume"):
            crowd.change(action)
        elif action == "wait":
            crowd.wait(crowd.chance.choice([5, 30, 90]))
        else:
            getattr(crowd, action)()
        if number % 200 == 150:
            crowd.kill_everything()
        if number in (300, 500, 700, 900, 1100):
            crowd.change("cancel")
            crowd.change("delete")
    for job_id in set(crowd.jobs) - crowd.deleted:
        if world.services.store.get(job_id).pause is not None:
            world.services.resume(job_id)
    crowd.jobs = [job_id for job_id in crowd.jobs if job_id not in crowd.deleted]
    crowd.calm()
    statuses = [str(world.services.store.get(job_id).status) for job_id in crowd.jobs]
    assert set(statuses) <= {"completed", "cancelled"}, statuses
    assert statuses.count("completed") >= 25
    assert crowd.most == {Step.PREPARE: 2, Step.TRAIN: 2, Step.EXPORT: 2}
    for kind in (crowd.machine, "prepare", "export"):
        table = world.services.slots.table(kind)
        assert all(holder.free_at is not None for holder in table.holders)
        assert table.waiting == ()
