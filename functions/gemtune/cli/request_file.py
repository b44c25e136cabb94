"""Reads a request from a file, or from standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from gemtune.errors import RequestRefused
from gemtune.request.job_file import as_json


def read(file: str) -> Any:
    """What the JSON or YAML file holds ("-": standard input, which is read as YAML, of which JSON is a part)."""
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror}") from None
    try:
        return as_json(content, yaml=not file.endswith(".json"))
    except RequestRefused as error:
        raise click.UsageError(f"{file}: {error.message}") from None
