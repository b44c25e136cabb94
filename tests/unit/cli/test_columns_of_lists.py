"""Lists in terminals of any width, and counts in words."""

from __future__ import annotations

import pytest
from rich.console import Console

from gemtune.cli.connection.text import counted, fit_columns, fit_text
from gemtune.cli.watching import _table

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
    assert fit_columns(["a" * 9, "", "b" * 9, "c"], 8) == ["a" * 9, f"  {'b' * 9}", "  c"]
    assert fit_columns(["a", "b" * 8, "c"], 8) == ["a", "b" * 8, "  c"]  # it fits without the indentation


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_line_of_text_is_broken_at_its_spaces(width: int) -> None:
    line = f"{'rows:':22}270 trained on, 30 held out, 2154 tokens trained per epoch, fields not read: ticket_id (300)"
    lines = fit_text(line, width)
    assert all(len(each) <= width for each in lines)
    assert " ".join(lines).split() == line.split()
    assert lines[0].startswith("rows:                 270")
    assert fit_text(line, None) == [line]


@pytest.mark.parametrize(("width", "shown"), [(60, "8e601887be54"), (120, JOB[2])])
def test_the_live_list_shows_status_and_a_way_to_name_the_job_in_any_terminal(width: int, shown: str) -> None:
    job = {"created_at": JOB[0], "status": "completed", "job_id": JOB[2], "job_name": "a name of many words " * 3}
    console = Console(width=width)
    with console.capture() as capture:
        console.print(_table([job], console.width))
    assert {"08:00:00", "completed", shown} <= set(capture.get().split())


def test_one_thing_is_named_in_the_singular() -> None:
    assert [counted(number, "row") for number in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]
