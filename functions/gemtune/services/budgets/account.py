"""Account of an owner's month: what each job has taken in it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, FiniteFloat

from gemtune.machines.cost import Spending
from gemtune.untrusted.damaged import fields_of, readable

# Jobs that a page of an account lists. The amounts of earlier ones are added up.
JOBS_KEPT = 4000


class Amount(BaseModel):
    """Time and cost. usd is what is known of the cost.

    is_priced: whether all of the cost is known.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    seconds: FiniteFloat = 0.0
    usd: FiniteFloat = 0.0
    is_priced: bool = True

    @classmethod
    def of(cls, spent: Spending) -> Amount:
        """Return the amount of what a job has taken."""
        is_priced = spent.usd is not None or spent.seconds == 0
        return cls(seconds=spent.seconds, usd=spent.usd or 0.0, is_priced=is_priced)

    def minus(self, earlier: Amount) -> Amount:
        """Return the part that came after an earlier amount."""
        seconds, usd = max(0.0, self.seconds - earlier.seconds), max(0.0, self.usd - earlier.usd)
        return Amount(seconds=round(seconds, 3), usd=round(usd, 6), is_priced=self.is_priced)

    def at_least(self, other: Amount) -> Amount:
        """Return the larger of two amounts of one job, which only grow.

        other: the stored one, whose fields of a newer version are kept.
        """
        larger = {"seconds": max(self.seconds, other.seconds), "usd": max(self.usd, other.usd)}
        return other.model_copy(update={**larger, "is_priced": self.is_priced})

    def plus(self, others: Iterable[Amount]) -> Amount:
        """Return this amount with others added, and its unknown fields."""
        return self.model_copy(update=dict(add([self, *others])))


class AccountPage(BaseModel):
    """Part of an account: amounts by job, in the order of their first entry.

    earlier: sum of the jobs that are not listed any more. A late repeat of such a job's entry is counted twice.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    jobs: dict[str, Amount] = {}
    earlier: Amount = Amount()

    def with_job(self, job_id: str, amount: Amount) -> AccountPage:
        """Return the page with a job's amount; the same page if it is equal."""
        before = self.jobs.get(job_id, Amount())
        after = amount.at_least(before)
        if after == before:
            return self
        jobs = {**self.jobs, job_id: after}
        left_out = list(jobs)[: max(0, len(jobs) - JOBS_KEPT)]
        earlier = self.earlier.plus(jobs.pop(name) for name in left_out)
        return self.model_copy(update={"jobs": jobs, "earlier": earlier})

    @property
    def total(self) -> Amount:
        """Return the sum of all jobs."""
        return add([self.earlier, *self.jobs.values()])


def salvaged(body: str) -> AccountPage:
    """Return what can be read of a damaged page.

    An amount that cannot be read counts as nothing, until its job is entered again.
    """
    stored = fields_of(body)
    listed = stored.get("jobs")
    amounts = {name: readable(Amount, entry) for name, entry in listed.items()} if isinstance(listed, dict) else {}
    jobs = {name: amount for name, amount in amounts.items() if amount is not None}
    earlier = readable(Amount, stored.get("earlier")) or Amount()
    return AccountPage.model_validate({**stored, "jobs": jobs, "earlier": earlier})


def add(amounts: Iterable[Amount]) -> Amount:
    """Return the sum of amounts."""
    listed = list(amounts)
    return Amount(
        seconds=round(sum(each.seconds for each in listed), 3),
        usd=round(sum(each.usd for each in listed), 6),
        is_priced=all(each.is_priced for each in listed),
    )


@dataclass(frozen=True, slots=True)
class Budget:
    """Most that the jobs of one owner may take in a calendar month.

    None: there is no such limit.
    """

    usd: float | None = None
    hours: float | None = None

    @property
    def exists(self) -> bool:
        """Return whether there is any limit."""
        return self.usd is not None or self.hours is not None

    def is_spent(self, amount: Amount) -> bool:
        """Return whether nothing is left."""
        return (self.usd is not None and amount.usd >= self.usd) or (
            self.hours is not None and amount.seconds >= self.hours * 3600
        )

    def seconds_left(self, amount: Amount, usd_per_second: float | None) -> float | None:
        """Return how long a machine may run with what is left; None: no limit.

        usd_per_second: the machine's price. Nothing is left in dollars if the price is not known.
        """
        left = [] if self.hours is None else [self.hours * 3600 - amount.seconds]
        if self.usd is not None and usd_per_second != 0:
            left.append(0.0 if usd_per_second is None else (self.usd - amount.usd) / usd_per_second)
        return min(left, default=None)
