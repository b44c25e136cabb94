"""Budgets of owners: accounts by calendar month in UTC, and their limits."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zlib import crc32

from pydantic import ValidationError

from gemtune.errors import Problem, RequestRefused
from gemtune.jobs.record import Job
from gemtune.jobs.status import Step
from gemtune.machines import cost
from gemtune.machines.cost import Prices
from gemtune.ports import Clock, SharedDocuments
from gemtune.services.budgets.account import AccountPage, Amount, Budget, add, salvaged

log = logging.getLogger(__name__)

PREFIX = "accounts/"
# Pages of an account, so that many jobs can be entered at the same time.
PAGES = 8
# Months for which accounts are kept, at least.
MONTHS_KEPT = 12


@dataclass(frozen=True, slots=True)
class OwnerBudgets:
    """Service that keeps the accounts of owners.

    A job is entered with all that its record says it has taken, so repeated entries change nothing. It is entered after
    each of its events, by `sweep` while it runs, and before it is deleted. Its entry of a month is the part that the
    months before do not have.
    """

    documents: SharedDocuments
    clock: Clock
    prices: Prices
    budget: Budget

    def enter(self, job: Job) -> None:
        """Enter what a job has taken so far into its owner's account."""
        amount = Amount.of(cost.spending(job, self.prices))
        if amount == Amount():
            return
        now = self.clock.now()
        for month in _months(job.created_at, now):
            amount = amount.minus(self._page(_page_name(job, month)).jobs.get(job.job_id, Amount()))
        name = _page_name(job, _month(now))

        def change(body: str | None) -> str | None:
            before, is_whole = _read(body, name)
            after = before.with_job(job.job_id, amount)
            return body if after is before and is_whole else after.model_dump_json()

        self.documents.update(name, change)

    def spent(self, owner: str) -> Amount:
        """Return what an owner's jobs have taken this month."""
        names = list(self.documents.names(f"{_folder(owner, _month(self.clock.now()))}/"))
        return add(self._page(name).total for name in names)

    def month(self) -> str:
        """Return the current month, such as 2026-11."""
        return _month(self.clock.now())

    def check(self, owner: str) -> None:
        """Raise RequestRefused if an owner's budget of this month is spent."""
        if not self.budget.exists:
            return
        amount = self.spent(owner)
        if self.budget.is_spent(amount):
            raise RequestRefused([self._problem(owner, amount)])

    def is_spent(self, owner: str) -> bool:
        """Return whether an owner's budget of this month is spent."""
        return self.budget.exists and self.budget.is_spent(self.spent(owner))

    def seconds_left(self, job: Job, step: Step) -> float | None:
        """Return how long a job's step may run within its owner's budget.

        None without a budget.
        """
        if not self.budget.exists:
            return None
        return self.budget.seconds_left(self.spent(job.owner), self.prices.of_step(job, step))

    def old_accounts(self) -> Iterator[str]:
        """Yield the names of pages of accounts of months that are long over."""
        last = self.clock.now() - timedelta(days=31 * MONTHS_KEPT)
        yield from self.documents.names(PREFIX, before=f"{PREFIX}{last.astimezone(UTC):%Y-%m}")

    def remove(self, name: str) -> None:
        """Remove a page of an account.

        A job that is older than that counts anew with all that it took.
        """
        self.documents.update(name, lambda body: None)

    def _problem(self, owner: str, amount: Amount) -> Problem:
        """Return the problem of a request whose owner's budget is spent."""
        at_least = "" if amount.is_priced else "at least "
        parts = [] if self.budget.usd is None else [f"{at_least}{amount.usd:.2f} of {self.budget.usd:g} USD"]
        if self.budget.hours is not None:
            parts.append(f"{amount.seconds / 3600:.2f} of {self.budget.hours:g} hours")
        message = f"the jobs of {owner} have taken {' and '.join(parts)} in {self.month()}, which is the month's budget"
        now = self.clock.now()
        first = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
        hint = f"send it again from {first:%Y-%m-%d} on, or ask the service's operator for a larger budget"
        return Problem((), message, "budget_spent", hint)

    def _page(self, name: str) -> AccountPage:
        return _read(self.documents.read(name), name)[0]


def _read(body: str | None, name: str) -> tuple[AccountPage, bool]:
    """Return a page, and whether it could be read as a whole.

    A damaged one must not hold up its owner's jobs. The next entry replaces it. name: of the document.
    """
    if body is None:
        return AccountPage(), True
    try:
        return AccountPage.model_validate_json(body), True
    except ValidationError:
        page = salvaged(body)
        log.error("%s is damaged: %d of its jobs can be read, the others count as nothing", name, len(page.jobs))
        return page, False


def _month(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m}"


def _months(first: datetime, last: datetime) -> Iterator[str]:
    """Yield the months from one time to another, without the last one."""
    first, last = first.astimezone(UTC), last.astimezone(UTC)
    for number in range(first.year * 12 + first.month - 1, last.year * 12 + last.month - 1):
        yield f"{number // 12:04d}-{number % 12 + 1:02d}"


def _folder(owner: str, month: str) -> str:
    """Return the folder of an owner's month; names of owners are hashed."""
    return f"{PREFIX}{month}/{hashlib.sha256(owner.encode()).hexdigest()[:32]}"


def _page_name(job: Job, month: str) -> str:
    return f"{_folder(job.owner, month)}/{crc32(job.job_id.encode()) % PAGES}"
