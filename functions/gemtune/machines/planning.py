"""Plan of a job from its request, the size of its model and its rows. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gemtune.families.size import ModelSize
from gemtune.jobs.parts.plan import Alternative, MemoryPlan, Plan, Span, StepEstimate
from gemtune.jobs.status import Step
from gemtune.machines import cost
from gemtune.machines.choice import LOCAL, MACHINES
from gemtune.machines.cost import LIST_PRICES, Prices
from gemtune.machines.memory import TrainingLoad, memory_for_training
from gemtune.machines.throughput import Speed

# Uncertainty of a duration: of finished jobs of the kind, and of an estimate from the hardware.
MEASURED, ESTIMATED = 1.2, 3.0


def exactly(number: float) -> Span:
    """Return a span without width."""
    return Span(least=number, expected=number, most=number)


@dataclass(frozen=True, slots=True)
class Amounts:
    """Train_steps and tokens of a training. None: they cannot be estimated.

    rows_tokens: tokens of all rows, once, which prepare reads.
    """

    train_steps: Span | None
    tokens: Span | None
    rows_tokens: Span | None
    exact: bool = False

    @property
    def by_step(self) -> Mapping[Step, Span] | None:
        """Return the tokens on which each step's duration depends."""
        if self.tokens is None or self.rows_tokens is None:
            return None
        return {Step.PREPARE: self.rows_tokens, Step.TRAIN: self.tokens, Step.EXPORT: exactly(0)}


@dataclass(frozen=True, slots=True)
class Outlook:
    """Facts about a job that its plan is made from.

    machine: that trains. speeds: of each step, with its key in the table; empty if not known. timeout: seconds of one
    execution of train. memory_gib: main memory of a workstation. prices: of the deployment's machines.
    """

    machine: str | None
    export_machine: str | None
    size: ModelSize | None
    load: TrainingLoad
    amounts: Amounts
    speeds: Mapping[Step, tuple[str, Speed]]
    timeout: float
    memory_gib: float | None
    prices: Prices = LIST_PRICES


def make_plan(outlook: Outlook, reason: str, alternatives: Sequence[Alternative] = ()) -> Plan:
    """Return the plan of a job."""
    tokens = outlook.amounts.by_step
    seconds = None if tokens is None or not outlook.speeds else _seconds(outlook, tokens)
    return Plan(
        machine=outlook.machine,
        machine_reason=reason,
        memory=_memory(outlook),
        exact=outlook.amounts.exact,
        train_steps=outlook.amounts.train_steps,
        tokens=outlook.amounts.tokens,
        minutes=None if seconds is None else _total(seconds, dict.fromkeys(seconds, 1 / 60), digits=2),
        usd=None if seconds is None else _usd(outlook, seconds),
        prices=_origin(outlook, seconds or {}),
        steps={} if seconds is None else {step.value: _estimate(outlook, step, span) for step, span in seconds.items()},
        alternatives=tuple(alternatives),
    )


def _seconds(outlook: Outlook, tokens: Mapping[Step, Span]) -> dict[Step, Span]:
    """Return the duration of each step whose speed is known."""
    spans = {}
    for step, (_, speed) in outlook.speeds.items():
        factor = MEASURED if speed.jobs else ESTIMATED
        least, expected, most = (
            _with_restarts(outlook, step, speed, count)
            for count in (tokens[step].least, tokens[step].expected, tokens[step].most)
        )
        spans[step] = Span(least=least / factor, expected=expected, most=most * factor)
    return spans


def _with_restarts(outlook: Outlook, step: Step, speed: Speed, tokens: float) -> float:
    """Return the seconds of a step, whose executions load the model anew.

    Executions end at their time limit. Measured durations of other jobs have their restarts and interruptions in them.
    """
    seconds = speed.seconds(tokens)
    if step is not Step.TRAIN:
        return seconds
    restarts = max(0, math.ceil(seconds / outlook.timeout) - 1)
    return seconds + restarts * speed.fixed


def _estimate(outlook: Outlook, step: Step, span: Span) -> StepEstimate:
    key, speed = outlook.speeds[step]
    basis = "measured" if speed.jobs else "estimated"
    return StepEstimate(key=key, seconds=round(span.expected, 1), basis=basis, jobs=speed.jobs)


def _usd(outlook: Outlook, seconds: Mapping[Step, Span]) -> Span | None:
    """Return the cost, or None if a price is not known."""
    if _is_free(outlook):
        return exactly(0.0)
    prices: dict[Step, float] = {}
    for step in seconds:
        price = outlook.prices.usd_per_second(cost.kind_of(step, outlook.machine, outlook.export_machine))
        if price is None:
            return None
        prices[step] = price
    return _total(seconds, prices, digits=4)


def _origin(outlook: Outlook, steps: Iterable[Step]) -> str:
    """Return the origin of the prices, and the machines of steps without one."""
    kinds = [] if _is_free(outlook) else [cost.kind_of(step, outlook.machine, outlook.export_machine) for step in steps]
    unpriced = ", ".join(outlook.prices.unpriced(kinds))
    if not unpriced:
        return outlook.prices.origin
    return (
        f"{outlook.prices.origin}; the price of {unpriced} there is not known, until the operator states usd_per_hour"
    )


def _is_free(outlook: Outlook) -> bool:
    """Return whether a job costs nothing: on a workstation without a price."""
    return outlook.machine == LOCAL and LOCAL not in outlook.prices.stated


def _total(seconds: Mapping[Step, Span], factors: Mapping[Step, float], *, digits: int) -> Span:
    """Return the weighted sum of the steps."""
    return Span(
        **{
            name: round(sum(getattr(span, name) * factors[step] for step, span in seconds.items()), digits)
            for name in ("least", "expected", "most")
        }
    )


def _memory(outlook: Outlook) -> MemoryPlan | None:
    """Return the memory that is needed, beside what the machine has."""
    if outlook.size is None or outlook.machine is None:
        return None
    need = memory_for_training(outlook.size, outlook.load)
    machine = MACHINES.get(outlook.machine)
    if machine is None or machine.gpu is None:
        available = outlook.memory_gib if machine is None else machine.memory_gib
        return MemoryPlan(
            gpu_needed=None,
            gpu_available=None,
            main_needed=round(need.host_without_gpu, 1),
            main_available=None if available is None else round(available, 1),
        )
    return MemoryPlan(
        gpu_needed=round(need.gpu, 1),
        gpu_available=machine.gpu_gib,
        main_needed=round(need.host_with_gpu, 1),
        main_available=machine.memory_gib,
    )
