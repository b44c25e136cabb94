"""Budgets of owners by calendar month: what counts, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gemtune.errors import RequestRefused
from gemtune.handlers.answers import Account
from gemtune.jobs.record import Job
from gemtune.jobs.sources import Source
from gemtune.jobs.status import Step
from gemtune.jobs.steps import COST_CAP
from gemtune.machines.cost import Spending
from gemtune.services.acceptance.create_job import Submission
from gemtune.services.budgets.account import JOBS_KEPT, AccountPage, Amount, Budget, salvaged
from gemtune.services.budgets.ledger import PREFIX, OwnerBudgets
from tests.fakes import World, reading
from tests.services.test_caps import finish, resume, types, verdict
from tests.services.test_export_again import export_again
from tests.services.test_running import Running

PRICED = {"GEMTUNE_USD_PER_HOUR": "local=3.60"}  # a tenth of a cent per second


@pytest.fixture
def limited(tmp_path: Path) -> World:
    """Return a workstation whose owner may spend a dollar in a month."""
    return World(tmp_path / "home", PRICED | {"GEMTUNE_OWNER_USD_PER_MONTH": "1"})


def account(world: World, owner: str = "local") -> Account:
    return Account.of(owner, world.services.budgets)


def publish(running: Running) -> None:
    running.services.fan_out(running.job_id)


def test_the_account_has_what_every_job_took_once(limited: World) -> None:
    first, second = Running(limited), Running(limited)
    finish(first, Step.PREPARE, 100)
    finish(second, Step.PREPARE, 50)
    for _ in range(3):
        publish(first)
        publish(second)
    assert (account(limited).usd, account(limited).hours) == (0.15, round(150 / 3600, 5))
    finish(first, Step.TRAIN, 10)
    publish(first)
    assert account(limited).usd == 0.16
    assert account(limited, "somebody else").usd == 0
    first.services.cancel(first.job_id)
    limited.services.delete(first.job_id)
    assert account(limited).usd == 0.16


def test_a_job_that_is_deleted_before_its_events_are_published_counts(limited: World) -> None:
    running = Running(limited)
    running.begin(Step.PREPARE)
    limited.clock.advance(seconds=30)
    running.services.cancel(running.job_id)
    limited.services.delete(running.job_id)
    assert account(limited).usd == 0.03


def test_a_running_step_is_counted_by_the_sweep(limited: World) -> None:
    running = Running(limited)
    fence = running.begin(Step.PREPARE)
    limited.clock.advance(seconds=200)
    running.services.advance.heartbeat(running.job_id, fence)
    limited.services.sweep()
    assert account(limited).usd == 0.2


def test_a_job_across_months_counts_in_each_with_its_part(limited: World) -> None:
    limited.clock.time = datetime(2026, 11, 30, 23, 50, tzinfo=UTC)
    running = Running(limited)
    fence = running.begin(Step.PREPARE)
    limited.clock.advance(seconds=600)  # midnight
    running.services.advance.heartbeat(running.job_id, fence)
    limited.clock.time = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    limited.services.sweep()
    assert (account(limited).month, account(limited).usd) == ("2026-11", 0.6)
    limited.clock.time = datetime(2026, 12, 1, tzinfo=UTC)
    limited.clock.advance(seconds=100)
    running.services.advance.finish(running.job_id, fence)
    for _ in range(2):
        publish(running)
    assert (account(limited).month, account(limited).usd) == ("2026-12", 0.1)


def test_new_jobs_are_refused_when_the_budget_is_spent_and_accepted_in_the_next_month(limited: World) -> None:
    running = Running(limited)
    finish(running, Step.PREPARE, 999)
    publish(running)
    other = limited.submit()
    for step in (Step.TRAIN, Step.EXPORT):
        finish(running, step, 1)
    publish(running)
    with pytest.raises(RequestRefused) as refused:
        limited.submit()
    (problem,) = refused.value.problems
    assert problem.code == "budget_spent"
    assert problem.msg == "the jobs of local have taken 1.00 of 1 USD in 2026-11, which is the month's budget"
    assert "from 2026-12-01 on" in str(problem.hint)
    with pytest.raises(RequestRefused, match="month's budget"):
        limited.services.submit.rehearse(reading(), owner="local")
    limited.services.submit.rehearse(reading(), owner="somebody else")
    with pytest.raises(RequestRefused, match="month's budget"):
        export_again(limited, running.job_id)
    limited.services.submit(Submission(reading(), Source.HTTP, "somebody else", None))
    limited.services.pause(other)
    with pytest.raises(RequestRefused, match="month's budget"):
        limited.services.resume(other)
    limited.clock.advance(days=20)
    limited.services.resume(other)
    limited.submit()


def test_a_repeated_request_is_answered_even_if_the_budget_is_spent_meanwhile(limited: World) -> None:
    job_id = limited.submit("a key")
    running = Running(limited)
    finish(running, Step.PREPARE, 2000)
    publish(running)
    assert limited.submit("a key") == job_id


def test_a_message_whose_owner_has_spent_the_budget_is_rejected(limited: World) -> None:
    from gemtune.ports import Topic
    from tests.fakes import request

    running = Running(limited)
    finish(running, Step.PREPARE, 2000)
    publish(running)
    limited.services.bus.subscribe("rejections", Topic.JOB_STATUS)
    import json

    limited.services.dispatch(json.dumps(request()).encode(), key="message-1", owner="local")
    rejected = [each for each in limited.messages("rejections") if each["type"] == "job_rejected"]
    assert [problem["code"] for each in rejected for problem in each["problems"]] == ["budget_spent"]


def test_jobs_under_way_are_paused_before_their_next_step_and_trainings_at_the_rest(limited: World) -> None:
    first, second = Running(limited), Running(limited)
    finish(first, Step.PREPARE, 100)
    finish(second, Step.PREPARE, 300)
    publish(first)
    publish(second)
    assert verdict(first, Step.TRAIN) == "run"
    fence = first.begin(Step.TRAIN)
    assert limited.services.advance.seconds_left(first.job, Step.TRAIN) == pytest.approx(600)
    limited.clock.advance(seconds=600)
    limited.services.advance.stop(first.job_id, fence, cause=COST_CAP)
    assert (first.status, first.job.pause.reason) == ("paused", "budget")
    assert first.ended(Step.TRAIN) == "stop"
    publish(first)
    assert verdict(second, Step.TRAIN) == "stop"
    assert (second.status, second.job.pause.reason, types(second)[-1]) == ("paused", "budget", "job_paused")
    limited.clock.advance(days=20)
    resume(second)
    assert verdict(second, Step.TRAIN) == "run"


def test_a_job_that_is_paused_while_it_waits_leaves_the_queue(limited: World) -> None:
    first, second = Running(limited), Running(limited)
    finish(first, Step.PREPARE, 1)
    finish(second, Step.PREPARE, 1)
    assert verdict(first, Step.TRAIN) == "run"
    fence = first.begin(Step.TRAIN)
    assert verdict(second, Step.TRAIN) == "wait"
    limited.clock.advance(seconds=1000)
    first.services.advance.heartbeat(first.job_id, fence)
    limited.services.budgets.enter(first.job)
    assert verdict(second, Step.TRAIN) == "stop"
    assert (second.status, second.job.pause.reason) == ("paused", "budget")
    table = limited.services.slots.table(limited.services.settings.machines[0])
    assert ([each.job_id for each in table.holders], table.waiting) == ([first.job_id], ())


def test_a_step_that_began_with_the_rest_of_last_month_is_paused_by_the_budget_and_not_by_its_cap(
    limited: World,
) -> None:
    limited.clock.time = datetime(2026, 11, 30, 23, 40, tzinfo=UTC)
    other = Running(limited)
    finish(other, Step.PREPARE, 800)
    publish(other)
    running = Running(limited, max_cost_usd=0.9)
    limited.clock.time = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
    fence = running.begin(Step.PREPARE)
    assert limited.services.advance.seconds_left(running.job, Step.PREPARE) == pytest.approx(200)
    limited.clock.advance(seconds=200)
    limited.services.advance.stop(running.job_id, fence, cause=COST_CAP)
    assert (running.status, running.job.pause.reason) == ("paused", "budget")
    resume(running)
    assert verdict(running, Step.PREPARE) == "run"


def test_a_cap_that_is_nearer_than_the_budget_is_the_reason(limited: World) -> None:
    running = Running(limited, max_cost_usd=0.5)
    fence = running.begin(Step.PREPARE)
    limited.clock.advance(seconds=499)
    limited.services.advance.stop(running.job_id, fence, cause=COST_CAP)
    assert running.job.pause.reason == "cost_cap"


def test_a_budget_in_hours_needs_no_price_and_one_in_dollars_does(tmp_path: Path) -> None:
    world = World(tmp_path / "home", {"GEMTUNE_OWNER_HOURS_PER_MONTH": "1"})
    running = Running(world)
    finish(running, Step.PREPARE, 3600)
    publish(running)
    assert (account(world).usd, account(world).hours, account(world).budget_hours) == (None, 1, 1)
    with pytest.raises(RequestRefused, match=r"1\.00 of 1 hours"):
        world.submit()
    unpriced = World(tmp_path / "unpriced", {"GEMTUNE_OWNER_USD_PER_MONTH": "1"})
    with pytest.raises(RequestRefused, match="price of machine local"):
        unpriced.submit()


def test_without_a_budget_the_account_is_kept_all_the_same(world: World) -> None:
    running = Running(world)
    finish(running, Step.PREPARE, 360)
    publish(running)
    shown = account(world, running.job.owner)
    assert (shown.hours, shown.budget_usd, shown.budget_hours) == (0.1, None, None)
    assert world.services.budgets.seconds_left(running.job, Step.TRAIN) is None


def test_the_sweep_removes_accounts_of_months_that_are_over_for_a_year(world: World) -> None:
    shared, months = world.services.shared, ("2023-01", "2025-09", "2025-12", "2026-11")
    for month in months:
        shared.update(f"accounts/{month}/owner/0", lambda body: "{}")
    world.services.sweep()
    assert list(shared.names("accounts/")) == [f"accounts/{month}/owner/0" for month in months[2:]]


def test_a_page_adds_up_the_oldest_jobs_when_there_are_too_many() -> None:
    page = AccountPage()
    for number in range(JOBS_KEPT + 5):
        page = page.with_job(f"job{number}", Amount(seconds=1, usd=0.5))
    assert len(page.jobs) == JOBS_KEPT
    assert (page.earlier.seconds, page.total.seconds, page.total.usd) == (5, JOBS_KEPT + 5, (JOBS_KEPT + 5) / 2)
    assert page.with_job("job9", Amount(seconds=1, usd=0.5)) is page
    assert page.with_job("job9", Amount(seconds=0.5)) is page  # an older record comes late
    assert len(page.model_dump_json()) < 500_000


def test_an_unknown_price_is_not_zero() -> None:
    page = AccountPage().with_job("priced", Amount.of(Spending(10, 1.0))).with_job("not", Amount.of(Spending(5, None)))
    assert (page.total.usd, page.total.is_priced) == (1.0, False)
    assert Budget(usd=5).seconds_left(page.total, None) == 0
    assert Budget(usd=5).seconds_left(page.total, 0.5) == 8
    assert Budget().seconds_left(page.total, None) is None


def test_a_refusal_does_not_take_an_unknown_part_of_the_cost_for_nothing(limited: World) -> None:
    budgets = limited.services.budgets
    unpriced = Amount(seconds=7200, usd=0.5, is_priced=False)
    assert "have taken at least 0.50 of 1 USD in" in budgets._problem("local", unpriced).msg
    assert "have taken 0.50 of 1 USD in" in budgets._problem("local", Amount(seconds=7200, usd=0.5)).msg


def test_months_follow_utc_and_the_year(limited: World) -> None:
    budgets: OwnerBudgets = limited.services.budgets
    job: Any = Running(limited).job
    limited.clock.time = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    assert budgets.month() == "2026-12"
    finished: Job = job.model_copy(update={"steps": {**job.steps, Step.PREPARE: _took(job, 2000.0)}})
    budgets.enter(finished)
    with pytest.raises(RequestRefused) as refused:
        budgets.check("local")
    assert "from 2027-01-01 on" in str(refused.value.problems[0].hint)
    limited.clock.advance(minutes=1)
    budgets.check("local")
    budgets.enter(finished)
    assert budgets.spent("local") == Amount()


def _took(job: Any, seconds: float) -> Any:
    return job.steps[Step.PREPARE].model_copy(update={"state": "done", "seconds": seconds})


@pytest.mark.parametrize("damage", ["", "x", "[]", '{"jobs": 3}', '{"jobs": {"a": {"seconds": "?"}}, "earlier": 1}'])
def test_a_damaged_page_holds_up_no_job_and_is_replaced_by_the_next_entry(limited: World, damage: str) -> None:
    running, documents = Running(limited), limited.services.budgets.documents
    finish(running, Step.PREPARE, 100)
    publish(running)
    (name,) = documents.names(PREFIX)
    documents.update(name, lambda body: damage)
    assert account(limited).usd == 0
    Running(limited)  # accepted
    finish(running, Step.TRAIN, 10)
    publish(running)
    assert AccountPage.model_validate_json(documents.read(name) or "").jobs.keys() == {running.job_id}
    assert account(limited).usd == 0.11  # with what it took before


def test_what_can_be_read_of_a_damaged_page_is_kept() -> None:
    amount = Amount(seconds=5, usd=2)
    page = AccountPage(jobs={"a": amount, "b": amount}, earlier=amount).model_dump(mode="json")
    page["jobs"]["b"] = None
    assert salvaged(json.dumps(page)) == AccountPage(jobs={"a": amount}, earlier=amount)
