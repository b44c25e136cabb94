"""Lists in terminals of any width, and counts in words."""

from __future__ import annotations

import pytest

from gemtune.cli.connection.text import counted, fit_columns

JOB = ["2026-11-30T08:00:00", "completed ", "training_capitals_gemma-3-270m-a5fd3b6_8e601887be54", "capitals"]


def test_a_list_in_a_file_has_one_line_per_entry() -> None:
    assert fit_columns(JOB, None) == [
        "2026-11-30T08:00:00  completed   training_capitals_gemma-3-270m-a5fd3b6_8e601887be54  capitals"
    ]


@pytest.mark.parametrize("width", [60, 72, 120])
def test_in_a_narrow_terminal_columns_stay_whole(width: int) -> None:
    lines = fit_columns(JOB, width)
    assert all(len(line) <= width for line in lines)
    assert " ".join(lines).split() == " ".join(JOB).split()
    assert [len(lines) > 1, lines[0].startswith("2026")] == [width < 100, True]


def test_a_column_that_is_too_long_for_any_line_has_its_own() -> None:
    assert fit_columns(["a" * 9, "", "b" * 9, "c"], 8) == ["a" * 9, f"    {'b' * 9}", "    c"]


def test_one_thing_is_named_in_the_singular() -> None:
    assert [counted(number, "row") for number in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]
