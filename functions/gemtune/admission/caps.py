"""Caps of a job: the most that it may cost, and the longest that it may run.

All functions are pure: they return a changed copy. A step that reaches a cap ends at a whole checkpoint, and the job is
paused until its user raises the cap.
"""

from __future__ import annotations

from datetime import datetime

from gemtune.admission import pauses
from gemtune.errors import CapReached, JobNotPaused, RequestRefused
from gemtune.jobs.changes import Changed, fail_job
from gemtune.jobs.parts.holds import Pause, PauseReason
from gemtune.jobs.parts.results import CAP_BELOW_PLAN, JobWarning
from gemtune.jobs.record import Failure, Job
from gemtune.jobs.status import STEPS, Status, Step
from gemtune.jobs.steps import COST_CAP
from gemtune.machines import cap_policy, cost
from gemtune.machines.cost import Prices


def seconds_left(job: Job, step: Step, prices: Prices) -> float | None:
    """Return how long an attempt of a step may take within the job's caps.

    It counts from the attempt's start; an attempt that runs already does not count as spent. None without a cap.
    A cap in dollars leaves no time where a price is not known.
    """
    return min(_left_by_cap(job, step, prices).values(), default=None)


def _left_by_cap(job: Job, step: Step, prices: Prices) -> dict[str, float]:
    """Return the seconds of an attempt of a step until each of the caps."""
    spent = cost.spending(job, prices, with_running=False)
    left = {} if job.max_hours is None else {"max_hours": job.max_hours * 3600 - spent.seconds}
    if job.max_cost_usd is not None:
        price = prices.of_step(job, step)
        if spent.usd is None or price is None:
            left["max_cost_usd"] = 0.0
        elif price:
            left["max_cost_usd"] = (job.max_cost_usd - spent.usd) / price
    return left


def check_before(job: Job, step: Step, prices: Prices, *, has_budget: bool = False, at: datetime) -> Changed:
    """Pause a job that has reached a cap before a step begins.

    Fails it if its cost is limited, and the step's machine turned out to be one whose price is not known. A step that
    began before its owner had a budget is paused instead.
    has_budget: whether its owner has a budget in dollars.
    """
    if (has_budget or job.max_cost_usd is not None) and prices.of_step(job, step) is None:
        if job.max_cost_usd is None and job.steps[step].attempt:
            return pause(job, reason="budget", at=at)
        kind = cost.kind_of(step, job.machine, job.export_machine)
        problem = prices.unknown(kind, requested=job.max_cost_usd is not None)
        limit = "its owner's budget in dollars" if job.max_cost_usd is None else "max_cost_usd"
        message = f"{limit} cannot be kept, since {problem.msg}"
        return fail_job(job, Failure(code=problem.code, message=message, step=step, hint=problem.hint), at=at)
    left = seconds_left(job, step, prices)
    return (job, ()) if left is None or left > 0 else pause(job, at=at)


def pause(job: Job, *, reason: PauseReason = COST_CAP, at: datetime) -> Changed:
    """Pause a job because of its caps or its owner's budget.

    An attempt that is lost is ended.
    """
    requested = job.pause or Pause(reason=reason, at=at)
    return pauses.settle_lost(job.model_copy(update={"pause": requested}), at=at)


def resume(job: Job, prices: Prices, *, max_cost_usd: float | None, max_hours: float | None, at: datetime) -> Changed:
    """Resume a job, with other caps; None leaves a cap as it is.

    Raises what `pauses.resume` raises, and CapReached if the job has spent as much already, or if a cap has paused it
    and is not raised. Raises JobNotPaused for other caps of a job whose step still runs, and RequestRefused for a cap
    in dollars on a machine whose price is not known.
    """
    resumed, events = pauses.resume(job, at=at)
    if job.status is not Status.PAUSED and (max_cost_usd, max_hours) != (None, None):
        raise JobNotPaused(job.job_id, job.status, hint="wait until it is paused: a running step keeps its caps")
    remaining = [step for step in STEPS if job.steps[step].state != "done"]
    unpriced = prices.unpriced(cost.kind_of(step, job.machine, job.export_machine) for step in remaining)
    if max_cost_usd is not None and unpriced:
        raise RequestRefused([prices.unknown(unpriced[0], requested=True)])
    spent = cost.spending(job, prices)
    fields = {
        "max_cost_usd": (spent.usd, job.max_cost_usd, max_cost_usd),
        "max_hours": (spent.seconds / 3600, job.max_hours, max_hours),
    }
    is_capped = job.pause is not None and job.pause.reason == COST_CAP
    left = _left_by_cap(job, remaining[0], prices) if is_capped else {}
    nearest = min(left, key=left.__getitem__, default=None)
    update: dict[str, float | None] = {}
    for name, (amount, before, requested) in fields.items():
        cap = before if requested is None else requested
        is_raised = before is None or cap is None or cap > before
        if amount is not None and cap is not None and (amount >= cap or (name == nearest and not is_raised)):
            raise CapReached(job.job_id, name, amount, max(cap, before or 0.0) if name == nearest else cap)
        update[name] = cap
    return resumed.model_copy(update={**update, "warnings": _warnings(job, **update)}), events


def _warnings(job: Job, *, max_cost_usd: float | None, max_hours: float | None) -> tuple[JobWarning, ...]:
    """Return the warnings of a job with other caps."""
    if job.plan is None:
        return job.warnings
    others = (warning for warning in job.warnings if warning.code != CAP_BELOW_PLAN)
    return *others, *cap_policy.warnings_of(job.plan, max_cost_usd, max_hours)
