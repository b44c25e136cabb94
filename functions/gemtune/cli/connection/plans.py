"""Plans of jobs as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gemtune.cli.connection import text

# Machine of jobs on a workstation.
LOCAL = "local"


def format_plan(plan: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a plan, as names and values."""
    yield _line("machine", f"{plan['machine'] or 'unknown'} ({plan['machine_reason']})")
    if plan["memory"] is not None:
        yield _line("memory", format_memory(plan["memory"]))
    counted = "counted" if plan["exact"] else "estimated from the size of the files"
    for name in ("train_steps", "tokens"):
        if plan[name] is not None:
            yield _line(name, f"{format_span(plan[name], '{:.0f}')} ({counted})")
    if plan["minutes"] is None:
        yield _line("minutes", "unknown, since the amount of rows or the size of the model is")
    else:
        yield _line("minutes", format_span(plan["minutes"], "{:.1f}"))
        if not _is_free(plan):
            yield _line("cost", _cost(plan))
    for name, step in plan["steps"].items():
        jobs = text.counted(step["jobs"], "job")
        basis = f"measured by {jobs}" if step["basis"] == "measured" else "estimated from the hardware"
        yield _line(name, f"{step['seconds']:.0f} s ({basis})")
    for other in plan["alternatives"]:
        yield _line("or", format_alternative(other))


def format_spent(job: dict[str, Any]) -> str:
    """Format what a job has taken, beside its caps."""
    spent = job["spent"]
    parts = [f"{spent['hours'] * 60:.1f} minutes{_limit(job['max_hours'], 'hours')}"]
    if spent["usd"] is not None:
        parts.append(f"{spent['usd']:.4f} USD{_limit(job['max_cost_usd'], 'USD')}")
    elif job["max_cost_usd"] is not None or job["machine"] != LOCAL:  # on a workstation nobody expects a price
        parts.append(f"cost unknown{_limit(job['max_cost_usd'], 'USD')}")
    return ", ".join(parts)


def format_account(account: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of an owner's account, as names and values."""
    yield _line("owner", account["owner"])
    yield _line("month", f"{account['month']} (UTC)")
    yield _line("hours", f"{account['hours']:.2f}{_limit(account['budget_hours'], 'hours')}")
    if account["usd"] is None and account["budget_usd"] is None and account["owner"] == LOCAL:
        return  # on a workstation nobody expects a price
    usd = "unknown, since a price is" if account["usd"] is None else f"{account['usd']:.2f} USD"
    yield _line("cost", f"{usd}{_limit(account['budget_usd'], 'USD')}")


def _limit(cap: float | None, unit: str) -> str:
    return "" if cap is None else f" (at most {cap:g} {unit})"


def format_total(plan: dict[str, Any]) -> str:
    """Format the time and the cost of a plan."""
    if plan["minutes"] is None:
        return "unknown"
    minutes = f"{format_span(plan['minutes'], '{:.1f}')} minutes"
    if _is_free(plan):
        return minutes
    return f"{minutes}, {'cost ' if plan['usd'] is None else ''}{_cost(plan)}"


def format_memory(memory: dict[str, Any]) -> str:
    """Format the memory that is needed, beside what there is."""
    available = "unknown" if memory["main_available"] is None else f"{memory['main_available']:.1f}"
    main = f"{memory['main_needed']:.1f} of {available} GiB"
    if memory["gpu_needed"] is None:
        return main
    return f"{memory['gpu_needed']:.1f} of {memory['gpu_available']:.1f} GiB on the GPU, {main} beside it"


def format_span(span: dict[str, Any], number: str) -> str:
    """Format an estimate with its bounds, or an exact number."""
    least, expected, most = (number.format(span[name]) for name in ("least", "expected", "most"))
    return expected if least == most else f"{expected} ({least} to {most})"


def format_alternative(other: dict[str, Any]) -> str:
    """Format a change of the request, and what it would take."""
    parts = ["fits" if other["fits"] else "does not fit"]
    if other["minutes"] is not None:
        parts += [
            f"{other['minutes']:.1f} minutes",
            "cost unknown" if other["usd"] is None else f"{other['usd']:.2f} USD",
        ]
    return f"{other['change']}: {', '.join(parts)}"


def _is_free(plan: dict[str, Any]) -> bool:
    """Return whether a plan is for a workstation without a stated price."""
    return plan["machine"] == LOCAL and (plan["usd"] is None or not plan["usd"]["most"])


def _cost(plan: dict[str, Any]) -> str:
    usd = "unknown" if plan["usd"] is None else f"{format_span(plan['usd'], '{:.2f}')} USD"
    return f"{usd} (list prices of {plan['prices']})"


def _line(name: str, value: str) -> str:
    return f"{name + ':':22}{value}"
