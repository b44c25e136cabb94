"""Caps of jobs: what they may cost and how long they may run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gemtune.admission import caps
from gemtune.admission.platform import PlatformError
from gemtune.errors import CapReached, JobNotPaused, RequestRefused
from gemtune.handlers.answers import JobStatus
from gemtune.jobs.parts.holds import Pause
from gemtune.jobs.parts.plan import Span
from gemtune.jobs.parts.results import JobWarning, StepResult
from gemtune.jobs.record import Claim, StepRecord
from gemtune.jobs.status import Status, Step
from gemtune.jobs.steps import COST_CAP, HEARTBEAT_SECONDS
from gemtune.machines.cost import Prices
from gemtune.ports import ExecutionState
from gemtune.request.parsing import read_resume
from tests.fakes import World, reading
from tests.services.test_export_again import export_again
from tests.services.test_running import Running

PRICED = {"GEMTUNE_USD_PER_HOUR": "local=3.60"}  # a tenth of a cent per second


@pytest.fixture
def priced(tmp_path: Path) -> World:
    """Return a workstation whose price is stated."""
    return World(tmp_path / "home", PRICED)


def types(running: Running) -> list[str]:
    return [event.type for event in running.services.store.events(running.job_id)]


def verdict(running: Running, step: Step) -> str:
    return running.services.control.admit(running.job_id, running.claim, step).verdict


def spend(running: Running, step: Step, seconds: float, cause: str = COST_CAP) -> None:
    """Run an attempt that ends after this time."""
    fence = running.begin(step)
    running.world.clock.advance(seconds=seconds)
    running.services.advance.stop(running.job_id, fence, cause=cause)


def finish(running: Running, step: Step, seconds: float) -> None:
    fence = running.begin(step)
    running.world.clock.advance(seconds=seconds)
    running.services.advance.finish(running.job_id, fence)


def resume(running: Running, **changed: float) -> None:
    """Resume the job, and claim it for its new launch."""
    body = "{" + ", ".join(f'"{name}": {value}' for name, value in changed.items()) + "}"
    running.services.resume(running.job_id, read_resume(body.encode()))
    running.services.dispatch.launch(running.job_id)
    running.claim = Claim(launch=running.job.launch.number, execution=f"launch-{running.job.launch.number}")
    assert running.services.control.claim(running.job_id, running.claim) is not None


def spent(running: Running) -> dict[str, Any]:
    return JobStatus.of(running.job, running.services.prices).spent.model_dump()


def test_a_training_that_reaches_its_hours_pauses_and_goes_on_with_more(world: World) -> None:
    running = Running(world, max_hours=1)
    finish(running, Step.PREPARE, 600)
    assert verdict(running, Step.TRAIN) == "run"
    fence = running.begin(Step.TRAIN)
    assert running.services.advance.seconds_left(running.job, Step.TRAIN) == pytest.approx(3000)
    world.clock.advance(seconds=2990)
    running.services.advance.record_checkpoint(running.job_id, fence, train_step=7)
    running.services.advance.stop(running.job_id, fence, cause=COST_CAP)
    for changed in ({}, {"max_hours": 1}, {"max_hours": 0.999}):  # ten seconds are left, in which nothing can be done
        with pytest.raises(CapReached):
            resume(running, **changed)
    assert (running.status, running.job.pause.reason) == ("paused", "cost_cap")
    assert running.services.store.events(running.job_id)[-1].details == {"reason": "cost_cap", "checkpoint": 7}
    assert running.ended(Step.TRAIN) == "stop"
    assert running.services.slots.table(world.services.settings.machines[0]).holders == ()
    assert spent(running)["hours"] == pytest.approx(3590 / 3600, abs=1e-4)
    resume(running, max_hours=2)
    assert verdict(running, Step.PREPARE) == "done"
    assert verdict(running, Step.TRAIN) == "run"
    running.begin(Step.TRAIN)
    assert running.services.advance.seconds_left(running.job, Step.TRAIN) == pytest.approx(3610)
    assert (running.job.steps[Step.TRAIN].checkpoint, running.job.pause) == (7, None)


def test_a_cap_in_dollars_counts_what_the_machine_costs(priced: World) -> None:
    running = Running(priced, max_cost_usd=0.5)
    finish(running, Step.PREPARE, 100)
    fence = running.begin(Step.TRAIN)
    assert running.services.advance.seconds_left(running.job, Step.TRAIN) == pytest.approx(400)
    priced.clock.advance(seconds=30)
    running.services.advance.heartbeat(running.job_id, fence)
    assert spent(running) == {"usd": 0.13, "hours": round(130 / 3600, 5), "usd_left": 0.37, "hours_left": None}
    running.services.advance.stop(running.job_id, fence, cause="out_of_time")
    assert running.status == "training"
    finish(running, Step.TRAIN, 200)
    finish(running, Step.EXPORT, 20)
    assert running.status == "completed"
    status = JobStatus.of(running.job, priced.services.prices)
    assert (status.cost_usd, status.max_cost_usd, status.spent.usd) == (0.35, 0.5, 0.35)


def test_the_cap_that_is_nearer_counts(priced: World) -> None:
    running = Running(priced, max_cost_usd=0.5, max_hours=0.1)
    running.begin(Step.PREPARE)
    assert running.services.advance.seconds_left(running.job, Step.PREPARE) == pytest.approx(360)


def test_a_job_without_a_cap_has_no_limit(world: World) -> None:
    running = Running(world)
    running.begin(Step.PREPARE)
    assert running.services.advance.seconds_left(running.job, Step.PREPARE) is None
    assert spent(running)["hours_left"] is None


def test_a_resume_without_a_higher_cap_is_refused_and_says_what_is_spent(priced: World) -> None:
    running = Running(priced, max_cost_usd=0.5, max_hours=5)
    finish(running, Step.PREPARE, 100)
    spend(running, Step.TRAIN, 402)
    for changed in ({}, {"max_hours": 9}, {"max_cost_usd": 0.502}):
        with pytest.raises(CapReached, match=r"0\.502 USD") as refused:
            resume(running, **changed)
        assert "max_cost_usd above 0.502" in str(refused.value.hint)
    assert (running.status, running.job.max_hours, types(running)[-1]) == ("paused", 5, "job_paused")
    resume(running, max_cost_usd=0.6)
    assert (running.job.max_cost_usd, running.job.max_hours) == (0.6, 5)
    with pytest.raises(JobNotPaused):
        resume(running, max_cost_usd=0.7)


def test_a_step_that_runs_keeps_its_caps_so_they_do_not_change_before_the_pause(world: World) -> None:
    running = Running(world)
    fence = running.begin(Step.PREPARE)
    running.services.pause(running.job_id)
    with pytest.raises(JobNotPaused) as refused:
        running.services.resume(running.job_id, read_resume(b'{"max_hours": 1}'))
    assert "wait until it is paused" in str(refused.value.hint)
    assert (running.job.max_hours, running.job.pause.reason) == (None, "request")
    running.services.advance.stop(running.job_id, fence, cause="paused")
    resume(running, max_hours=1)
    assert running.job.max_hours == 1


def test_the_cap_that_has_to_be_raised_is_the_one_with_less_time_left(tmp_path: Path) -> None:
    world = World(tmp_path / "home", {"GEMTUNE_USD_PER_HOUR": "local=1"})
    prices = Prices({"prepare": 0.36, "l4": 3.6})
    done, training = StepRecord(state="done", seconds=3000), StepRecord(state="stopped", seconds=80)
    # 0.38 of 0.5 USD are spent, and 3080 of 3600 seconds: 120 seconds of training cost the rest, and 520 are left.
    job = Running(world, max_cost_usd=0.5, max_hours=1).job
    job = job.model_copy(
        update={
            "machine": "l4",
            "steps": {**job.steps, Step.PREPARE: done, Step.TRAIN: training},
            "status": Status.PAUSED,
            "pause": Pause(reason="cost_cap", at=world.clock.now()),
        }
    )
    with pytest.raises(CapReached, match="max_cost_usd"):
        caps.resume(job, prices, max_cost_usd=None, max_hours=2, at=world.clock.now())
    resumed, _ = caps.resume(job, prices, max_cost_usd=0.6, max_hours=None, at=world.clock.now())
    assert (resumed.max_cost_usd, resumed.max_hours) == (0.6, 1)


@pytest.mark.parametrize("body", [b'{"max_hours": 0}', b'{"max_hours": "2"}', b'{"hours": 2}', b"[]", b"{"])
def test_a_request_to_resume_is_checked(world: World, body: bytes) -> None:
    running = Running(world)
    running.services.pause(running.job_id)
    with pytest.raises(RequestRefused):
        running.services.resume(running.job_id, read_resume(body))
    assert running.status == "paused"


def test_a_step_for_which_nothing_is_left_does_not_begin(world: World) -> None:
    running = Running(world, max_hours=0.1)
    finish(running, Step.PREPARE, 360)
    assert verdict(running, Step.TRAIN) == "stop"
    assert (running.status, running.job.pause.reason, running.job.steps[Step.TRAIN].attempt) == (
        "paused",
        "cost_cap",
        0,
    )


def test_an_attempt_killed_together_with_its_workflow_counts_until_its_next_heartbeat_was_due(world: World) -> None:
    running = Running(world, max_hours=0.1)
    fence = running.begin(Step.PREPARE)
    world.clock.advance(seconds=357)
    running.services.advance.heartbeat(running.job_id, fence)
    world.clock.advance(seconds=4)  # and then it is killed
    world.clock.advance(hours=2)
    running.world.launcher.states["first"] = ExecutionState.FAILED
    world.services.sweep()
    running.claim = Claim(launch=2, execution="second")
    assert running.services.control.claim(running.job_id, running.claim) is not None
    begun = running.services.advance.begin(running.job_id, Step.PREPARE, running.claim, execution="next")
    assert begun is None
    assert (running.status, running.job.pause.reason) == ("paused", "cost_cap")
    assert running.job.steps[Step.PREPARE].seconds == 357 + HEARTBEAT_SECONDS


def test_a_process_counts_from_its_start_even_if_it_begins_later(world: World) -> None:
    running = Running(world, max_hours=0.1)
    begun = running.services.advance.begin(running.job_id, Step.PREPARE, running.claim, execution="slow", age=50)
    assert begun is not None
    world.clock.advance(seconds=10)
    running.services.advance.stop(running.job_id, begun[1], cause="crashed")
    assert running.job.steps[Step.PREPARE].seconds == 60
    assert running.services.advance.begin(running.job_id, Step.PREPARE, running.claim, execution="s", age=301) is None
    assert running.status == "paused"


def test_an_export_that_reaches_a_cap_is_paused_and_begins_anew(world: World) -> None:
    running = Running(world, max_hours=0.1)
    finish(running, Step.PREPARE, 100)
    finish(running, Step.TRAIN, 100)
    spend(running, Step.EXPORT, 160)
    assert (running.status, running.job.pause.reason) == ("paused", "cost_cap")
    resume(running, max_hours=0.2)
    assert verdict(running, Step.TRAIN) == "done"
    assert verdict(running, Step.EXPORT) == "run"
    finish(running, Step.EXPORT, 100)
    assert running.status == "completed"


def test_a_crash_at_the_cap_pauses_the_job_before_the_next_attempt(world: World) -> None:
    running = Running(world, max_hours=0.1)
    running.begin(Step.PREPARE)
    world.clock.advance(seconds=365)
    assert running.ended(Step.PREPARE, error="code -9") == "again"
    assert verdict(running, Step.PREPARE) == "stop"
    assert (running.status, running.services.slots.table("prepare").holders) == ("paused", ())


def test_a_wait_for_a_machine_takes_nothing(world: World) -> None:
    running = Running(world, max_hours=1)
    assert verdict(running, Step.PREPARE) == "run"
    running.services.control.step_ended(
        running.job_id, running.claim, Step.PREPARE, round_number=1, error=PlatformError("Quota exceeded")
    )
    world.clock.advance(days=3)
    assert spent(running)["hours"] == 0
    assert verdict(running, Step.PREPARE) == "run"


@pytest.mark.parametrize(
    ("settings", "requested", "cap"),
    [
        ({}, None, None),
        ({"GEMTUNE_DEFAULT_MAX_HOURS": "2"}, None, 2),
        ({"GEMTUNE_DEFAULT_MAX_HOURS": "2"}, 3, 3),
        ({"GEMTUNE_MAX_HOURS": "4"}, None, 4),
        ({"GEMTUNE_DEFAULT_MAX_HOURS": "2", "GEMTUNE_MAX_HOURS": "4"}, None, 2),
        ({"GEMTUNE_DEFAULT_MAX_HOURS": "9", "GEMTUNE_MAX_HOURS": "4"}, None, 4),
    ],
)
def test_a_deployment_has_defaults_and_maxima(
    tmp_path: Path, settings: dict[str, str], requested: float | None, cap: float | None
) -> None:
    world = World(tmp_path / "home", settings)
    fields = {} if requested is None else {"max_hours": requested}
    assert world.services.store.get(world.submit(**fields)).max_hours == cap


def test_caps_above_the_maximum_are_refused_at_submit_and_at_resume(tmp_path: Path) -> None:
    world = World(tmp_path / "home", PRICED | {"GEMTUNE_MAX_HOURS": "4", "GEMTUNE_MAX_COST_USD": "7.5"})
    with pytest.raises(RequestRefused) as refused:
        world.submit(max_hours=5, max_cost_usd=8)
    assert [(each.loc, each.code) for each in refused.value.problems] == [
        (("max_cost_usd",), "above_maximum"),
        (("max_hours",), "above_maximum"),
    ]
    running = Running(world, max_hours=4)
    spend(running, Step.PREPARE, 3600 * 4)
    with pytest.raises(RequestRefused):
        resume(running, max_hours=4.5)
    assert running.status == "paused"


def test_a_cap_in_dollars_without_a_price_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path / "home")
    with pytest.raises(RequestRefused) as refused:
        world.submit(max_cost_usd=1)
    (problem,) = refused.value.problems
    assert (problem.loc, problem.code) == (("max_cost_usd",), "price_unknown")
    assert "max_hours" in str(problem.hint)
    assert "GEMTUNE_USD_PER_HOUR=local=" in str(problem.hint)
    running = Running(world)
    world.services.pause(running.job_id)
    with pytest.raises(RequestRefused, match="price of machine local"):
        resume(running, max_cost_usd=1)
    assert (running.status, running.job.max_cost_usd) == ("paused", None)
    limited = World(tmp_path / "limited", {"GEMTUNE_DEFAULT_MAX_COST_USD": "5"})
    with pytest.raises(RequestRefused, match="this service limits the cost"):
        limited.submit()


def test_a_cap_below_the_plan_is_a_warning_at_submit_and_in_the_plan(priced: World) -> None:
    row = '{"messages": [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}]}\n'
    priced.services.buckets.data.write("processed_datasets/chats/train.jsonl", row.encode() * 5000)
    planned = priced.services.planner.of_request(*priced.services.submit.rehearse(reading(), owner="local"))
    assert planned.minutes is not None
    assert planned.usd is not None
    least, least_usd = planned.minutes.least / 60, planned.usd.least
    assert least_usd == pytest.approx(3.6 * least, rel=0.01)
    fields = {"max_hours": 0.9 * least, "max_cost_usd": 1.1 * least_usd}
    (warning,) = priced.services.store.get(priced.submit(**fields)).warnings
    assert warning.code == "cap_below_plan"
    assert warning.message.startswith(f"the job takes at least {least:.3g} hours")
    assert priced.services.store.get(priced.submit(max_hours=1.1 * least)).warnings == ()
    # After prepare the exact plan counts; the warning of the request is gone, and others stay.
    running = Running(priced, **fields)
    short = planned.model_copy(update={"minutes": planned.minutes.model_copy(update={"least": 0.001})})
    other = JobWarning(code="rows_refused", message="m")
    fence = running.begin(Step.PREPARE)
    priced.services.advance.finish(running.job_id, fence, StepResult(plan=short, warnings=(other,)))
    assert running.job.warnings == (other,)
    running = Running(priced, max_cost_usd=0.9 * least_usd)
    priced.services.advance.finish(running.job_id, running.begin(Step.PREPARE), StepResult(plan=planned))
    assert [(each.code, "USD" in each.message) for each in running.job.warnings] == [("cap_below_plan", True)]


def test_a_job_that_is_resumed_with_caps_below_its_plan_warns_of_those(priced: World) -> None:
    running, other = Running(priced, pause_after="prepare", max_hours=1), JobWarning(code="rows_refused", message="m")
    plan = priced.services.planner.of_request(*priced.services.submit.rehearse(reading(), owner="local"))
    hours, usd = (Span(least=least, expected=2 * least, most=3 * least) for least in (120, 7.2))
    plan = plan.model_copy(update={"minutes": hours, "usd": usd})
    fence = running.begin(Step.PREPARE)
    priced.services.advance.finish(running.job_id, fence, StepResult(plan=plan, warnings=(other,)))
    assert running.ended(Step.PREPARE) == "stop"
    assert [each.code for each in running.job.warnings] == ["rows_refused", "cap_below_plan"]
    resume(running, max_hours=3, max_cost_usd=1)
    shown = JobStatus.of(running.job, priced.services.prices).warnings
    assert [each.code for each in shown] == ["rows_refused", "cap_below_plan"]
    assert "7.2 USD" in shown[1].message
    priced.services.pause(running.job_id)
    resume(running, max_cost_usd=8)
    assert running.job.warnings == (other,)
    priced.services.pause(running.job_id)
    resume(running)
    assert running.job.warnings == (other,)


def test_an_export_of_its_own_has_its_own_cap(world: World) -> None:
    running = Running(world, max_hours=1)
    running.complete()
    again = world.services.store.get(export_again(world, running.job_id, max_hours=0.5).job_id)
    assert (again.max_hours, again.only_exports) == (0.5, True)
    without = world.services.store.get(export_again(world, running.job_id).job_id)
    assert without.max_hours is None


def test_a_machine_that_turns_out_to_have_no_price_fails_the_job(priced: World) -> None:
    running = Running(priced, max_cost_usd=1)
    running.services.advance.finish(
        running.job_id, running.begin(Step.PREPARE), StepResult(machine="of-a-newer-version")
    )
    assert verdict(running, Step.TRAIN) == "stop"
    assert (running.status, running.job.error.code) == ("failed", "price_unknown")


def test_a_machine_without_a_price_fails_the_job_of_an_owner_with_a_budget_in_dollars(tmp_path: Path) -> None:
    world = World(tmp_path / "home", PRICED | {"GEMTUNE_OWNER_USD_PER_MONTH": "100"})
    running = Running(world)
    running.services.advance.finish(
        running.job_id, running.begin(Step.PREPARE), StepResult(machine="of-a-newer-version")
    )
    assert verdict(running, Step.TRAIN) == "stop"
    assert (running.status, running.job.error.code) == ("failed", "price_unknown")
    assert running.job.error.message.startswith("its owner's budget in dollars cannot be kept")


def test_a_step_that_began_before_there_was_a_budget_is_paused_and_not_failed(tmp_path: Path) -> None:
    running = Running(World(tmp_path / "home"))
    spend(running, Step.PREPARE, 10, cause="crashed")
    running.services = World(tmp_path / "home", {"GEMTUNE_OWNER_USD_PER_MONTH": "100"}).services
    assert verdict(running, Step.PREPARE) == "stop"
    assert (running.status, running.job.pause.reason) == ("paused", "budget")
