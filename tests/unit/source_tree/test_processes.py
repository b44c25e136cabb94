"""Processes that may outlive a command do not hold its terminal."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.syntax import nodes_of

ROOT = Path(__file__).parents[3]
CODE = ("functions", "trainer", "deploy", "examples", "bench")


def holders_of_stdin(text: str) -> list[int]:
    """Return the lines of calls whose new session keeps the standard input."""
    calls = [node for node in nodes_of(text) if isinstance(node, ast.Call)]
    names = [(call.lineno, {keyword.arg for keyword in call.keywords}) for call in calls]
    return [line for line, keywords in names if "start_new_session" in keywords and "stdin" not in keywords]


def test_every_process_with_a_session_of_its_own_says_what_its_standard_input_is() -> None:
    """A terminal whose command has ended would wait for such a process."""
    files = [path for room in CODE for path in (ROOT / room).rglob("*.py")]
    holders = [f"{path.relative_to(ROOT)}:{line}" for path in files for line in holders_of_stdin(path.read_text())]
    assert len(files) > 300
    assert holders == []


@pytest.mark.parametrize(
    ("call", "holds"),
    [
        ("Popen(command, start_new_session=True)", True),
        ("subprocess.Popen(\n    command,\n    start_new_session=True, stdout=log)", True),
        ("Popen(command, stdin=DEVNULL, start_new_session=True)", False),
        ("Popen(command)", False),
    ],
)
def test_a_process_that_holds_a_terminal_is_found(call: str, holds: bool) -> None:
    assert bool(holders_of_stdin(call)) is holds
