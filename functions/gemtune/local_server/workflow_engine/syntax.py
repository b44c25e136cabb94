"""Syntax of a workflow file: subworkflows, steps and their actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gemtune.local_server.workflow_engine.expressions import Evaluate


@dataclass(frozen=True, slots=True)
class Assign:
    """Assignment of values to variables, in order."""

    values: Sequence[tuple[str, Evaluate]]


@dataclass(frozen=True, slots=True)
class Call:
    """Call of a host function or subworkflow; `result` names a variable."""

    target: str
    args: Mapping[str, Evaluate]
    result: str | None


@dataclass(frozen=True, slots=True)
class Return:
    """End of the subworkflow, with a value."""

    value: Evaluate


@dataclass(frozen=True, slots=True)
class Next:
    """Jump to a step of the same list, or to `end`."""

    step: str


@dataclass(frozen=True, slots=True)
class Switch:
    """Conditions with their actions; the first condition that is true decides."""

    branches: Sequence[tuple[Evaluate, Return | Next]]


@dataclass(frozen=True, slots=True)
class Retry:
    """Retry policy of a call; delays are in seconds."""

    predicate: str
    max_retries: int
    initial_delay: float
    max_delay: float
    multiplier: float


@dataclass(frozen=True, slots=True)
class Try:
    """Call with a retry policy, an except block, or both.

    `caught_as` is the variable with the caught error in the except block `handler`.
    """

    body: Call
    retry: Retry | None
    caught_as: str | None
    handler: Sequence[Step] | None


@dataclass(frozen=True, slots=True)
class Step:
    """Named step: an action, and the step after it if not the next one."""

    name: str
    action: Assign | Call | Switch | Try | Return | None
    next: str | None


@dataclass(frozen=True, slots=True)
class Subworkflow:
    """Named list of steps with parameters."""

    name: str
    params: Sequence[str]
    steps: Sequence[Step]


@dataclass(frozen=True, slots=True)
class Workflow:
    """Subworkflows of a file by name; execution begins with `main`."""

    subworkflows: Mapping[str, Subworkflow]
