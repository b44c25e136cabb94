"""Request that a check is about: the one that would train on the same rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from gemtune.bootstrap import services
from gemtune.client import uploads
from gemtune.datasets.files import splits
from gemtune.datasets.files.absent_columns import first_columns
from gemtune.datasets.files.splits import BadSplits
from gemtune.jobs.sources import Source
from gemtune.request import parsing, rules
from gemtune.request.facts import DatasetFiles
from gemtune.request.parsing import Reading
from gemtune.request.spec import TrainRequest
from gemtune.untrusted import Unreadable, read_file, read_json

# Stands for rows that were not uploaded, where a request names a dataset.
LOCAL_ROWS = "local-rows"


def existing_rows(path: Path) -> Path:
    """Return the path of a file of rows, or of a folder.

    `~` is expanded. Raises click.UsageError if there is no such file, and BadUse if it holds no rows.
    """
    path = path.expanduser()
    if not path.exists():
        raise click.UsageError(f"there is no file {path}")
    if not path.is_dir():
        uploads.suffix_of(path)
    return path


def read(request: dict[str, Any], rows: Path | None) -> Reading[TrainRequest]:
    """Return the request with the problems of all rules.

    rows: file or folder that was not uploaded; None for a dataset that the request names.
    """
    if rows is not None:
        request = request | {"processed_dataset_id": LOCAL_ROWS}
    reading = parsing.read(json.dumps(request), Source.HTTP)
    if reading.request is None:
        return reading
    facts = services().submit.read_facts(reading.request, trains=rows is None)
    if rows is not None:
        facts = replace(facts, dataset=DatasetFiles(str(rows), exists=True, columns=_columns(rows)))
    return rules.check(reading, facts)


def _columns(rows: Path) -> frozenset[str] | None:
    """Return the columns of a file, or of the train split of a folder.

    None if its first bytes do not tell them; the check then says why.
    """
    file = _first_file(rows) if rows.is_dir() else rows
    return None if file is None else first_columns(file)


def _first_file(folder: Path) -> Path | None:
    """Return the first file of a folder's train split, or None."""
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    try:
        if splits.METADATA in paths:
            metadata = read_json(read_file(folder / splits.METADATA, named=splits.METADATA))
            chosen = splits.of_metadata(metadata, paths, "")
        else:
            chosen = splits.of_files(paths)
    except (BadSplits, Unreadable):
        return None
    return folder / chosen.train[0] if chosen.train else None
