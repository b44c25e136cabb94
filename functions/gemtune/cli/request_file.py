"""Reading of a request from a file or standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from gemtune.errors import RequestRefused
from gemtune.request.job_file import as_json


def read(file: str) -> Any:
    """Return the content of a JSON or YAML file, or of standard input for "-".

    Standard input is read as YAML, which includes JSON. Raises click.UsageError for an unreadable or invalid file.
    """
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise click.UsageError(f"could not read {file}: {error.strerror}") from None
    try:
        return as_json(content, yaml=not file.endswith(".json"))
    except RequestRefused as error:
        raise click.UsageError(f"{file}: {error.message}") from None
