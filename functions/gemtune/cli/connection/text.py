"""Numbers of things, and lines that fit the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import click

INDENT = "    "


def counted(number: int, noun: str) -> str:
    """Return `1 row`, `2 rows`. noun: in the singular; its plural ends in s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def echo_columns(columns: Sequence[str]) -> None:
    """Print columns in one line.

    In a terminal that is too narrow for it, they go on in further lines, which are indented.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in fit_columns(columns, width):
        click.echo(line)


def fit_columns(columns: Sequence[str], width: int | None) -> list[str]:
    """Return the lines of columns.

    width: of the terminal; None for a file, whose lines have any length.
    """
    whole = "  ".join(columns).rstrip()
    if width is None or len(whole) <= width:
        return [whole]
    lines = [columns[0].rstrip()]
    for column in map(str.strip, columns[1:]):
        if column and len(lines[-1]) + 2 + len(column) <= width:
            lines[-1] += f"  {column}"
        elif column:
            lines.append(f"{INDENT}{column}")
    return lines
