"""A rule across the fields of a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gemtune.errors import Problem
from gemtune.request.spec import TrainRequest

Loc = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """reads: the fields it is about; it is not asked while one of them is faulty."""

    reads: tuple[Loc, ...]
    check: Callable[[TrainRequest], list[Problem]]
