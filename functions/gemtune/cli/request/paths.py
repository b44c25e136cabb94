"""Paths of options, in which `~` is the home folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


class LocalPath(click.Path):
    """Path that may begin with `~`.

    A shell leaves it as it is in `--data=~/rows.csv`.
    """

    def __init__(self, **checks: bool):
        super().__init__(path_type=Path, **checks)

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, after the checks of click."""
        return super().convert(Path(value).expanduser(), param, ctx)


EXISTING = LocalPath(exists=True)
FOLDER = LocalPath(file_okay=False)
