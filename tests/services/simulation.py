"""Simulation of jobs on a backend under faults, a day of them in a second.

Store, objects and secrets are the real ones of the backend. Scripted by a random plan are the bus (lost, repeated and
swapped messages), the launcher (dies before or after it creates an execution), the workflow and the trainer (crash at
any write, lose their last one, hang, return as a zombie), and the clock.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gemtune.admission.platform import PlatformError
from gemtune.errors import JobIsOver, JobNotFound, Stale
from gemtune.jobs.record import Claim, FencingToken
from gemtune.jobs.status import Step
from gemtune.ports import ExecutionState, Topic
from tests.fakes import World

CHECKPOINTS = 3
# A running step or supervision of one; returns the error that ended it, or None.
Run = Generator[None, None, str | None]


class Outage(Exception):
    """Failure of the platform."""


@dataclass
class Message:
    topic: Topic
    body: dict[str, Any]
    key: str


@dataclass
class Execution:
    job_id: str
    launch: int
    name: str
    run: Generator[None, None, None]


@dataclass
class Luck:
    """Random decisions whether something fails; in calm weather nothing does."""

    chance: random.Random
    calm: bool = False

    def bad(self, probability: float) -> bool:
        return not self.calm and self.chance.random() < probability


class Bus:
    """Bus that publishes into a list and sometimes raises.

    It raises before or after it stores the message; the caller cannot tell which.
    """

    def __init__(self, luck: Luck):
        self._luck = luck
        self.requests: list[Message] = []
        self.events: list[Message] = []

    def publish(
        self,
        topic: Topic,
        message: bytes,
        *,
        attributes: Mapping[str, str] | None = None,
        ordering_key: str = "",
        durable: bool = True,
    ) -> str:
        if self._luck.bad(0.1):
            raise Outage("the message was not stored")
        stored = Message(topic, json.loads(message), ordering_key)
        (self.requests if topic is Topic.JOB_REQUESTS else self.events).append(stored)
        if self._luck.bad(0.1):
            raise Outage("the answer was lost")
        return "1"


@dataclass
class Simulation:
    world: World
    seed: int
    trained: dict[str, int] = field(default_factory=dict)  # job -> how often its training was accepted as done
    attempts: dict[tuple[str, Step], int] = field(default_factory=dict)  # the newest one that wrote
    cancelled: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.luck = Luck(random.Random(self.seed))
        self.chance = random.Random(self.seed + 1)
        self.bus = Bus(self.luck)
        services = self.services = self.world.services
        for use_case in ("submit", "dispatch", "control", "fan_out", "sweep", "cancel", "_stop_executions"):
            services.__dict__.pop(use_case, None)
        services.settings = replace(services.settings, train_timeout_seconds=3600)
        services.__dict__["bus"], services.__dict__["launcher"] = self.bus, self
        self.executions: dict[str, Execution] = {}
        self.states: dict[str, ExecutionState] = {}
        self.zombies: list[Run] = []
        self.hanging: list[tuple[float, Execution]] = []
        self.jobs: list[str] = []
        self.asking: set[str] = set()  # executions that wait for a slot

    # The launcher.

    def start(self, job_id: str, launch: int) -> str:
        if self.luck.bad(0.1):
            raise Outage("the execution was not created")
        name = f"{job_id}#{launch}"
        if name not in self.states:
            self.states[name] = ExecutionState.ACTIVE
            self.executions[name] = Execution(
                job_id, launch, name, self._workflow(job_id, Claim(launch=launch, execution=name))
            )
        if self.luck.bad(0.1):
            raise Outage("the answer was lost")
        return name

    def state(self, execution: str) -> ExecutionState:
        return self.states.get(execution, ExecutionState.GONE)

    def stop(self, execution: str) -> None:
        if self.states.get(execution) is ExecutionState.ACTIVE:
            self.states[execution] = ExecutionState.CANCELLED
            self.executions.pop(execution, None)
            self.hanging = [(end, hung) for end, hung in self.hanging if hung.name != execution]

    def stop_step(self, execution: str) -> None:
        if self.luck.bad(0.5):
            raise Outage("the step could not be stopped")

    def stop_steps(self, cloud_run_job: str, job_id: str) -> None:
        if self.luck.bad(0.5):
            raise Outage("the steps could not be stopped")

    # The workflow: a claim, then each step until control says that it is done.

    def _workflow(self, job_id: str, claim: Claim) -> Generator[None, None, None]:
        control = self.services.control
        plan = yield from self._with_retries(lambda: control.claim(job_id, claim))
        if plan is None:
            return
        for step in Step:
            round_number = 0
            while True:
                admission = yield from self._with_retries(lambda: control.admit(job_id, claim, step))  # noqa: B023
                if admission.verdict == "wait":
                    self.asking.add(claim.execution)
                    yield
                    continue
                self.asking.discard(claim.execution)
                if admission.verdict == "stop":
                    return
                if admission.verdict == "done":
                    break
                round_number += 1
                text = yield from self._supervised(job_id, claim, step)
                error = None if text is None else PlatformError(text)
                ended = lambda: control.step_ended(job_id, claim, step, round_number=round_number, error=error)  # noqa: B023, E731
                ruling = yield from self._with_retries(ended)
                if self.luck.bad(0.1):  # the report is repeated
                    ended()
                if ruling.verdict == "stop":
                    return
                if ruling.verdict == "done":
                    break

    def _with_retries(self, call: Callable[[], Any]) -> Generator[None, None, Any]:
        while self.luck.bad(0.1):
            yield  # control does not answer; retry
        return call()

    def _supervised(self, job_id: str, claim: Claim, step: Step) -> Run:
        """Run a step until it ends or crashes.

        The trainer of a crashed step may go on as a zombie.
        """
        trainer = self._trainer(job_id, claim, step)
        while True:
            if self.luck.bad(0.05):
                if self.luck.bad(0.5):
                    self.zombies.append(trainer)
                return "crashed"
            try:
                next(trainer)
            except StopIteration as end:
                return end.value
            except Outage as outage:
                return str(outage)
            yield

    # The trainer.

    def _trainer(self, job_id: str, claim: Claim, step: Step) -> Run:
        advance = self.services.advance
        yield
        try:
            begun = self._written(lambda: advance.begin(job_id, step, claim, execution=f"run-{claim.execution}-{step}"))
            if begun is None:
                return None
            job, fence = begun
            self._note_write(job_id, fence)
            yield
            first = job.steps[step].checkpoint
            for number in range(first + 1, CHECKPOINTS + 1) if step is Step.TRAIN else ():
                self._written(lambda: advance.heartbeat(job_id, fence))
                self._note_write(job_id, fence)
                yield
                self._written(lambda number=number: advance.record_checkpoint(job_id, fence, train_step=number))
                self._note_write(job_id, fence)
                yield
            self._written(lambda: self._done(job_id, fence))
        except (Stale, JobNotFound):
            return None
        return None

    def _done(self, job_id: str, fence: FencingToken) -> None:
        self.services.advance.finish(job_id, fence)
        self._note_write(job_id, fence)
        if fence.step is Step.TRAIN:
            self.trained[job_id] = self.trained.get(job_id, 0) + 1

    def _written(self, write: Callable[[], Any]) -> Any:
        if self.luck.bad(0.04):
            raise Outage("the write was lost")
        result = write()
        if self.luck.bad(0.04):
            raise Outage("the answer to the write was lost")
        return result

    def _note_write(self, job_id: str, fence: FencingToken) -> None:
        """Check that no newer attempt has written before this one."""
        newest = self.attempts.get((job_id, fence.step), 0)
        assert fence.attempt >= newest, f"attempt {fence.attempt} of {fence.step} wrote after attempt {newest}"
        self.attempts[(job_id, fence.step)] = fence.attempt

    # Actions, in random order.

    def storm(self, actions: int) -> None:
        """Run random actions, while faults happen."""
        weighted_actions: list[tuple[Callable[[], None], int]] = [
            (self.submit, 2),
            (self.deliver, 6),
            (self.proceed, 30),
            (self.wake, 4),
            (self.sweep, 2),
            (self.lose_execution, 1),
            (self.proceed_zombie, 3),
            (self.cancel, 1),
            (self.wait, 3),
            (self.set_back, 1),
        ]
        calls, weights = zip(*weighted_actions, strict=True)
        self.submit()
        for call in self.chance.choices(calls, weights, k=actions):
            call()

    def calm(self) -> None:
        """Run everything to its end without faults.

        Jobs whose messages were lost are recovered by the sweep alone.
        """
        self.luck.calm = True
        for _ in range(40):
            while self.bus.requests:
                self.deliver()
            while True:
                while self.executions.keys() - self.asking:
                    for execution in [each for each in self.executions.values() if each.name not in self.asking]:
                        self._step(execution)
                for execution in list(self.executions.values()):
                    self._step(execution)  # a slot may be free now
                if not self.executions.keys() - self.asking:
                    break
            while self.zombies:
                self.proceed_zombie()
            self.wait(70 * 60)
            self.sweep()
            if all(self.services.store.get(job_id).is_over for job_id in self.jobs) and not self.bus.requests:
                break
        self.sweep()

    def submit(self) -> None:
        try:
            job_id = self.world.submit(hf_token="hf_fakefakefake")
        except Outage:  # the user got an error
            return
        self.jobs.append(job_id)

    def deliver(self) -> None:
        """Deliver any waiting message, perhaps not for the last time."""
        if not self.bus.requests:
            return
        place = self.chance.randrange(len(self.bus.requests))
        message = self.bus.requests[place]
        if not self.luck.bad(0.3):
            self.bus.requests.pop(place)
        try:
            self.services.dispatch(json.dumps(message.body).encode(), key="unused", owner="local")
        except Outage:
            self.bus.requests.append(message)

    def proceed(self) -> None:
        if self.executions:
            self._step(self.chance.choice(list(self.executions.values())))

    def _step(self, execution: Execution) -> None:
        try:
            next(execution.run)
        except StopIteration:
            self.executions.pop(execution.name, None)
            if self.states[execution.name] is ExecutionState.ACTIVE:
                self.states[execution.name] = ExecutionState.SUCCEEDED

    def proceed_zombie(self) -> None:
        if self.zombies:
            zombie = self.chance.choice(self.zombies)
            try:
                next(zombie)
            except (StopIteration, Outage):
                self.zombies.remove(zombie)

    def lose_execution(self) -> None:
        """End an execution of the workflow silently, or let its step hang.

        A hanging execution goes on when the platform's time limit ends its step, unless the sweep replaces it before.
        """
        if self.executions:
            execution = self.executions.pop(self.chance.choice(list(self.executions)))
            hangs = self.services.store.get(execution.job_id).running_step is not None and self.chance.random() < 0.3
            if hangs:
                self.hanging.append((self.world.clock.monotonic() + 75 * 60, execution))
            else:
                ends = [ExecutionState.FAILED, ExecutionState.SUCCEEDED, ExecutionState.GONE]
                self.states[execution.name] = self.chance.choice(ends)

    def wake(self) -> None:
        """Deliver the trigger of some event, late or repeated; many are lost."""
        if self.jobs:
            try:
                self.services.fan_out(self.chance.choice(self.jobs))
            except Outage:
                return

    def sweep(self) -> None:
        self.services.sweep()

    def wait(self, seconds: int | None = None) -> None:
        self.world.clock.advance(seconds=seconds or self.chance.choice([5, 60, 240, 4000]))
        for end, execution in list(self.hanging):
            if self.world.clock.monotonic() >= end:
                self.hanging.remove((end, execution))
                self.executions[execution.name] = execution

    def set_back(self) -> None:
        """Set the clock back, as an administrator might."""
        self.world.clock.set_back(seconds=self.chance.choice([2, 90, 3600]))

    def cancel(self) -> None:
        if self.jobs:
            job_id = self.chance.choice(self.jobs)
            try:
                self.services.cancel(job_id)
                self.cancelled.add(job_id)
            except JobIsOver:
                return

    # Invariants after the storm.

    def check(self) -> None:
        assert not [name for name in self.world.stored_secrets() if name.startswith("gemtune-job-")]
        for job_id in self.jobs:
            job = self.services.store.get(job_id)
            assert job.is_over, f"{job_id} is {job.status}"
            assert job.status == "cancelled" or job_id not in self.cancelled
            assert self.trained.get(job_id, 0) <= 1
            assert job.status != "completed" or self.trained.get(job_id) == 1
            events = self.services.store.events(job_id)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            finals = [event.seq for event in events if event.status in ("completed", "failed", "cancelled")]
            assert finals == [len(events)], "there are events after the final one"
            times = [event.at for event in events]
            assert times == sorted(times), "an event happened before an earlier one"
            assert all(step.seconds >= 0 for step in job.steps.values())
            assert job.started_at is None or job.started_at <= (job.finished_at or job.started_at)
            published = [message.body for message in self.bus.events if message.key == job_id]
            firsts = list(dict.fromkeys(body["seq"] for body in published))
            assert firsts == list(range(1, len(events) + 1)), "events are missing or out of order"
