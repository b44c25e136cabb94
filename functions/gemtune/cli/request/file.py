"""Reading of a request from a file or standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from gemtune.errors import RequestRefused
from gemtune.request.uploads.job_file import as_json

DATA_FILE = (
    "{file} holds rows, not a request: `gemtune train --data {file} --model MODEL` trains on them, and "
    "`gemtune models` lists base models"
)


def read(file: str) -> dict[str, Any]:
    """Return the content of a JSON or YAML file, or of standard input for "-".

    Standard input is read as YAML, which includes JSON. Raises click.UsageError for an unreadable or invalid file.
    """
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).expanduser().read_bytes()
    except OSError as error:
        raise click.UsageError(f"could not read {file}: {error.strerror}") from None
    if not content.strip():
        raise click.UsageError(f"{file} is empty; a request has at least processed_dataset_id and training_config")
    try:
        request = as_json(content, yaml=not file.endswith(".json"))
    except RequestRefused as error:
        if _is_data(file, content):
            raise click.UsageError(DATA_FILE.format(file=file)) from None
        raise click.UsageError(f"{file}: {error.message}") from None
    if _is_data(file, content) or isinstance(request, list):
        raise click.UsageError(DATA_FILE.format(file=file))
    if not isinstance(request, dict):
        raise click.UsageError(f"{file} is no request: it has to be an object with fields")
    return request


def _is_data(file: str, content: bytes) -> bool:
    """Return whether a file holds the rows of a dataset instead of a request."""
    if Path(file).suffix in (".jsonl", ".csv", ".tsv", ".parquet", ".gz", ".zst"):
        return True
    lines = content.strip().splitlines()
    return len(lines) > 1 and all(line.strip().startswith(b"{") and line.strip().endswith(b"}") for line in lines[:2])
