"""Caps of a deployment: defaults, and the most that a request may ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from gemtune.errors import Problem
from gemtune.jobs.parts.plan import Plan
from gemtune.jobs.parts.results import JobWarning


class Capped(Protocol):
    """Request with caps of its job; None: it leaves them to the deployment."""

    @property
    def max_cost_usd(self) -> float | None: ...

    @property
    def max_hours(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class CapPolicy:
    """Default and highest caps of jobs. None: there is no such cap.

    The highest ones are also the defaults where there are no others. budget_usd: most that the jobs of one owner may
    cost in a month.
    """

    default_usd: float | None = None
    default_hours: float | None = None
    highest_usd: float | None = None
    highest_hours: float | None = None
    budget_usd: float | None = None

    def caps_of(self, request: Capped) -> dict[str, float | None]:
        """Return the caps of a request's job, by field."""
        return {
            "max_cost_usd": _cap(request.max_cost_usd, self.default_usd, self.highest_usd),
            "max_hours": _cap(request.max_hours, self.default_hours, self.highest_hours),
        }

    def limits_cost(self, request: Capped) -> bool:
        """Return whether a request's cost is limited: then it must be known."""
        return self.budget_usd is not None or self.caps_of(request)["max_cost_usd"] is not None

    def problems_of(self, request: Capped) -> Iterator[Problem]:
        """Yield a problem for each cap that is higher than allowed."""
        caps: Mapping[str, tuple[float | None, float | None]] = {
            "max_cost_usd": (request.max_cost_usd, self.highest_usd),
            "max_hours": (request.max_hours, self.highest_hours),
        }
        for field, (requested, highest) in caps.items():
            if requested is not None and highest is not None and requested > highest:
                message = f"this service allows at most {highest:g}"
                hint = f"send at most {highest:g}; the service's operator sets the maximum"
                yield Problem((field,), message, "above_maximum", hint)


def _cap(requested: float | None, default: float | None, highest: float | None) -> float | None:
    """Return the cap that holds."""
    if requested is not None:
        return requested
    return min((cap for cap in (default, highest) if cap is not None), default=None)


NO_CAPS = CapPolicy()


def warnings_of(plan: Plan, max_cost_usd: float | None, max_hours: float | None) -> Iterator[JobWarning]:
    """Yield a warning for each cap that even the least of a plan exceeds."""
    hours = None if plan.minutes is None else (plan.minutes.least / 60, plan.minutes.most / 60)
    usd = None if plan.usd is None else (plan.usd.least, plan.usd.most)
    for field, unit, cap, bounds in (
        ("max_cost_usd", "USD", max_cost_usd, usd),
        ("max_hours", "hours", max_hours, hours),
    ):
        if cap is not None and bounds is not None and bounds[0] > cap:
            message = (
                f"the job takes at least {bounds[0]:.3g} {unit} by its plan, and its {field} is {cap:.3g}: it will be "
                "paused before its end"
            )
            hint = f"set {field} to {bounds[1]:.3g} or train less; a paused job can also be resumed with a higher cap"
            yield JobWarning(code="cap_below_plan", message=message, hint=hint)
