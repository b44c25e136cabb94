"""Numbers of things, and lines that fit the terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console

# Indentation of further lines; a column that would not fit with it has none.
INDENT = "  "


def counted(number: int, noun: str) -> str:
    """Return `1 row`, `2 rows`. noun: in the singular; its plural ends in s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def echo_columns(columns: Sequence[str]) -> None:
    """Print columns in one line.

    In a terminal that is too narrow for it, they go on in further lines, which are indented.
    """
    for line in fit_columns(columns, terminal_width()):
        click.echo(line)


def echo_line(line: str) -> None:
    """Print a line of text, at whose spaces a narrow terminal breaks it."""
    for part in fit_text(line, terminal_width()):
        click.echo(part)


def echo_message(message: str, **style: Any) -> None:
    """Print a message to standard error.

    A narrow terminal breaks its lines at their spaces; a file gets them as they are. style: as of `click.style`.
    """
    text = fit_message(message)
    click.echo(click.style(text, **style) if style else text, err=True)


def fit_message(message: str, prefix: str = "") -> str:
    """Return a message as `echo_message` prints it.

    prefix: that click prints in front of it.
    """
    width = _terminal_width(sys.stderr)
    lines = [part for line in f"{prefix}{message}".split("\n") for part in fit_text(line, width)]
    return "\n".join(lines).removeprefix(prefix)


def local_time(at: str) -> str:
    """Return a time of the API, which is UTC, in this machine's time zone.

    A text that is no time stays as it is.
    """
    try:
        return datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return at


def is_redrawn(console: Console) -> bool:
    """Return whether a console can draw its lines again, as for a bar.

    FORCE_COLOR makes no terminal of a pipe, and one with TERM=dumb cannot move its cursor.
    """
    return console.file.isatty() and console.is_interactive


def terminal_width() -> int | None:
    """Return the columns of the terminal; None if standard output is none."""
    return _terminal_width(sys.stdout)


def _terminal_width(stream: TextIO) -> int | None:
    """Return the columns of the terminal that a stream is; None for a file.

    COLUMNS says it, or the terminal itself, which standard output need not be.
    """
    if not stream.isatty():
        return None
    with suppress(OSError):
        return shutil.get_terminal_size(os.get_terminal_size(stream.fileno())).columns
    return shutil.get_terminal_size().columns


def fit_columns(columns: Sequence[str], width: int | None) -> list[str]:
    """Return the lines of columns.

    width: of the terminal; None for a file, whose lines have any length.
    """
    whole = "  ".join(columns).rstrip()
    if width is None or len(whole) <= width:
        return [whole]
    first, *others = filter(None, map(str.strip, columns))
    lines = [first]
    for column in others:
        if len(lines[-1]) + 2 + len(column) <= width:
            lines[-1] += f"  {column}"
        else:
            lines.append(_indented(column, width))
    return lines


def fit_text(line: str, width: int | None) -> list[str]:
    """Return the lines of a text, whose words stay whole. width: as above."""
    if width is None or len(line) <= width:
        return [line]
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    first, *others = textwrap.wrap(line, width, subsequent_indent=INDENT, **options)
    return [first.rstrip(), *(_indented(each.strip(), width) for each in others)]


def _indented(text: str, width: int) -> str:
    return text if len(text) + len(INDENT) > width >= len(text) else f"{INDENT}{text}"
