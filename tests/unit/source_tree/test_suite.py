"""Rules for the tests: they pass on a machine that is busy with other work."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.syntax import nodes_of

TESTS = Path(__file__).parent.parent.parent
CLOCKS = {"time", "monotonic", "perf_counter", "process_time", "thread_time", "timeit"}
# Tests on a GPU check the promised speed.
MAY_MEASURE = {"gpu"}


def asserted_clocks(source: str) -> Iterator[int]:
    """Yield the lines where an assert calls a clock."""
    for statement in nodes_of(source):
        if isinstance(statement, ast.Assert):
            for call in ast.walk(statement.test):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in CLOCKS:
                    yield statement.lineno


def test_no_test_asserts_how_long_something_takes() -> None:
    timed = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        if path.relative_to(TESTS).parts[0] not in MAY_MEASURE
        for line in asserted_clocks(path.read_text())
    ]
    assert timed == []


def test_names_of_tests_are_the_same_in_every_process() -> None:
    """The time is in each gzip file, and so in names of parameters."""
    timed = [
        f"{path.relative_to(TESTS)}:{argument.lineno}"
        for path in sorted(TESTS.rglob("test_*.py"))
        for function in nodes_of(path.read_text())
        if isinstance(function, ast.FunctionDef)
        for decorator in function.decorator_list
        for argument in ast.walk(decorator)
        if isinstance(argument, ast.Call)
        and ast.unparse(argument.func) == "gzip.compress"
        and "mtime" not in {keyword.arg for keyword in argument.keywords}
    ]
    assert timed == []


@pytest.mark.parametrize("clock", sorted(CLOCKS))
def test_an_assert_of_a_clock_is_found(clock: str) -> None:
    assert list(asserted_clocks(f"began = time.{clock}()\nassert time.{clock}() - began < 5")) == [2]


def test_no_example_of_hypothesis_has_a_deadline() -> None:
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check
