"""Paths of options, in which `~` is the home folder."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from gemtune.datasets.files.text_encoding import mark_of

STANDARD_INPUT = "-"
STANDARD_INPUT_NAME = "rows.jsonl"
# Bytes of standard input that tell whether it is JSON.
BEGIN_BYTES = 1024


class LocalPath(click.Path):
    """Path that may begin with `~`.

    A shell leaves it as it is in `--data=~/rows.csv`.
    """

    def __init__(self, **checks: bool):
        super().__init__(path_type=Path, **checks)

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, after the checks of click."""
        return super().convert(value if value == STANDARD_INPUT else Path(value).expanduser(), param, ctx)


class RowsPath(LocalPath):
    """Path of rows to upload.

    A wrong one may be the name of a dataset that was uploaded before, so the error leads to --dataset.
    """

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Raises BadParameter."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            advice = f"To train on a dataset that was uploaded, use --dataset {value}."
            raise click.BadParameter(f"{error.message} {advice}", ctx, param) from None


class HeldOutPath(LocalPath):
    """Path of rows to evaluate on.

    A share or a number of rows is meant elsewhere, so the error leads to what holds rows out.
    """

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Raises BadParameter."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            if re.fullmatch(r"[0-9.]+%?", str(value)) is None:
                raise
            advice = "A training holds out a tenth of the rows with --set training_config.eval_strategy=epoch."
            raise click.BadParameter(f"{error.message} {advice}", ctx, param) from None


HELD_OUT = HeldOutPath(exists=True)
ROWS = RowsPath(exists=True)
EXISTING_OR_INPUT = LocalPath(exists=True, allow_dash=True)
FOLDER = LocalPath(file_okay=False)


def check_filename(source: str, filename: str | None) -> None:
    """Raise click.UsageError for a name of a copy where there is none."""
    if filename is not None and source != STANDARD_INPUT:
        raise click.UsageError("--filename names rows on standard input: it goes with -")


@contextmanager
def file_of(source: Path, filename: str | None) -> Iterator[Path]:
    """Yield a path of EXISTING_OR_INPUT; for `-` a copy of standard input.

    filename: name of the copy; None for STANDARD_INPUT_NAME. Raises click.UsageError for a name without a use, and for
    anything but JSON without a name.
    """
    check_filename(str(source), filename)
    if str(source) != STANDARD_INPUT:
        yield source
        return
    name = filename or STANDARD_INPUT_NAME
    if Path(name).name != name:
        raise click.UsageError(f"--filename {name}: give a name without a folder")
    with tempfile.TemporaryDirectory(prefix="gemtune-") as folder:
        path = Path(folder) / name
        with path.open("wb") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        if filename is None and not _may_be_json(path):
            message = "the rows on standard input are no JSON: say what kind of file they are with --filename"
            raise click.UsageError(f"{message}, as in --filename rows.csv")
        yield path


def _may_be_json(path: Path) -> bool:
    """Return whether a file begins as JSON does, or with blanks only."""
    with path.open("rb") as file:
        start = file.read(BEGIN_BYTES)
    mark = mark_of(start)
    text = start[len(mark.content) :].decode(mark.encoding, errors="replace").lstrip()
    return not text or text[0] in "{["
