"""Rules about the caps of a job."""

from __future__ import annotations

from dataclasses import replace

from gemtune.errors import NeedsLargerMachine, Problem
from gemtune.jobs.status import Step
from gemtune.machines import cost
from gemtune.request import placement
from gemtune.request.facts import Facts
from gemtune.request.spec import TrainRequest


def maximum(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse caps above the deployment's."""
    return list(facts.deployment.caps.problems_of(request))


def price(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse a cap in dollars where the price of a machine is not known.

    A machine that prepare is to choose is checked before the step that it runs.
    """
    deployment = facts.deployment
    if not deployment.caps.limits_cost(request):
        return []
    try:
        machine, export_machine = placement.machine(request, facts), placement.export_machine(request, facts)
    except NeedsLargerMachine:  # the rule about the machine reports it
        return []
    only_exports = facts.dataset is None
    unpriced = deployment.prices.unpriced(
        cost.kind_of(step, machine, export_machine) for step in Step if not only_exports or step is Step.EXPORT
    )
    if not unpriced:
        return []
    problem = deployment.prices.unknown(unpriced[0], requested=request.max_cost_usd is not None)
    if request.max_cost_usd is None:
        problem = replace(problem, msg=f"this service limits the cost of jobs, and {problem.msg}")
    return [problem]
