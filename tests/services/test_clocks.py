"""Corrections of the clock, also backwards.

Nothing takes negative time, ends before it begins, or waits for the time to pass again.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

from gemtune.jobs import launches
from gemtune.jobs.parts.metrics import Progress
from gemtune.jobs.record import Claim, FencingToken, Job, Launch
from gemtune.jobs.status import Step
from gemtune.machines import cost
from gemtune.ports import ExecutionState
from tests.fakes import World
from tests.services.test_running import Running
from tests.unit.jobs.test_job import LEASE, NOW

# Seconds that pass in each half of a step.
HALF = 60


@pytest.fixture
def running(world: World) -> Running:
    return Running(world)


def check_times(world: World, job: Job) -> None:
    assert job.started_at is not None
    assert job.created_at <= job.started_at <= (job.finished_at or job.updated_at) <= job.updated_at
    events = world.services.store.events(job.job_id)
    assert all(before.at <= after.at for before, after in pairwise(events))
    for step in job.steps.values():
        assert step.seconds >= 0
        assert all(attempt.seconds >= 0 for attempt in step.attempts)


@pytest.mark.parametrize("when", range(8))
def test_a_clock_set_back_at_any_point_shortens_no_step(backend: World, when: int) -> None:
    passed = 0

    def half() -> None:
        nonlocal passed
        if passed == when:
            backend.clock.set_back(hours=1)
        passed += 1
        backend.clock.advance(seconds=HALF)
        backend.services.sweep()

    half()
    running = Running(backend)
    for step in Step:
        half()
        fence = running.begin(step)
        half()
        running.services.advance.heartbeat(running.job_id, fence, Progress(train_step=1))
        running.services.advance.finish(running.job_id, fence)
        assert running.ended(step) == "done"
    half()
    job = running.job
    assert job.status == "completed"
    check_times(backend, job)
    assert {step: record.seconds for step, record in job.steps.items()} == dict.fromkeys(Step, HALF)
    # 4 vCPU and 16 GiB; 8 vCPU, 32 GiB and an L4; 8 vCPU and 32 GiB
    dollars = HALF * ((4 * 18 + 16 * 2) + (8 * 18 + 32 * 2 + 186.7) + (8 * 18 + 32 * 2)) / 1e6
    spent = cost.spending(job.model_copy(update={"machine": "l4"}), cost.LIST_PRICES)
    assert spent.usd == pytest.approx(dollars, abs=1e-4)


@pytest.mark.parametrize("end", ["killed", "replaced", "cancelled", "failed"])
def test_an_attempt_ended_by_others_after_the_clock_was_set_back_takes_no_time(running: Running, end: str) -> None:
    """Count no time, as the process that could have measured it is gone."""
    fence = running.begin(Step.PREPARE)
    world = running.world
    world.clock.advance(seconds=5)
    world.clock.set_back(hours=1)
    running.services.advance.heartbeat(running.job_id, fence)
    if end == "killed":
        running.ended(Step.PREPARE, error="code 137")
    elif end == "replaced":
        running.begin(Step.PREPARE)
    elif end == "cancelled":
        running.services.cancel(running.job_id)
    else:
        for number in range(1, 4):
            running.ended(Step.PREPARE, number, error="code 137")
    assert running.job.steps[Step.PREPARE].seconds == 0
    check_times(world, running.job)


def test_a_message_lost_before_the_clock_was_set_back_is_published_again_at_once(world: World) -> None:
    job_id = world.submit()
    world.messages("requests")
    world.clock.set_back(hours=1)
    world.services.sweep()
    assert [message["job_id"] for message in world.messages("requests")] == [job_id]


def test_a_launch_lost_before_the_clock_was_set_back_is_repeated_at_once(world: World) -> None:
    job_id = world.submit()
    world.services.dispatch.launch(job_id)
    world.launcher.states[f"{job_id}#1"] = ExecutionState.FAILED
    world.clock.set_back(hours=1)
    world.services.sweep()
    assert world.launcher.started == [(job_id, 1), (job_id, 2)]


def test_a_step_that_fell_silent_before_the_clock_was_set_back_is_replaced(running: Running) -> None:
    running.begin(Step.PREPARE)
    running.world.clock.set_back(minutes=59)
    running.services.sweep()
    assert running.world.launcher.started == [(running.job_id, 1)]
    running.world.clock.set_back(days=365)
    running.services.sweep()
    assert running.world.launcher.started[-1] == (running.job_id, 2)
    assert running.world.launcher.stopped_steps == ["run-prepare"]


@pytest.mark.parametrize(
    ("seconds", "holds"), [(-181, False), (-180, True), (0, True), (179, True), (180, False), (3600, False)]
)
def test_a_lease_also_holds_for_its_own_length_before_its_start(seconds: int, holds: bool) -> None:
    """Allow for differences between the clocks of two machines."""
    launch, lease = Launch(number=1, lease_until=LEASE), LEASE - NOW
    assert launches.is_leased(launch, at=NOW + timedelta(seconds=seconds), lease=lease) is holds


@pytest.mark.parametrize(("minutes", "holds"), [(-13, False), (-12, True), (11, True), (12, False)])
def test_a_lease_after_unclaimed_launches_holds_for_its_doubled_length(minutes: int, holds: bool) -> None:
    launch = Launch(number=3, lease_until=NOW + timedelta(minutes=12), unclaimed=2)
    assert launches.is_leased(launch, at=NOW + timedelta(minutes=minutes), lease=timedelta(minutes=3)) is holds


def test_a_token_without_a_measured_start_is_timed_by_the_time_of_day(running: Running) -> None:
    fence = running.begin(Step.PREPARE)
    running.world.clock.advance(seconds=7)
    timed = FencingToken(claim=Claim(launch=1, execution="first"), step=fence.step, attempt=fence.attempt)
    running.services.advance.stop(running.job_id, timed, cause="x")
    assert running.job.steps[Step.PREPARE].seconds == 7
