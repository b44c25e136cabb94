"""Rows as a file has them: numbered, and either a dictionary or refused."""

from __future__ import annotations

from typing import Any

from gemtune.datasets.refusal import Refused
from gemtune.errors import StepError

# Limit of a row's text. A longer row is more often a damaged file than a row, and is refused without parsing it.
MAX_ROW_BYTES = 1024 * 1024
# Limit of a row that may hold pictures or audio, which are base64 in files of text.
MAX_MEDIA_ROW_BYTES = 64 * 1024 * 1024


# The number counts from 1. In a file of JSON lines it is the line.
Row = tuple[int, dict[str, Any] | Refused]


def too_long(longest: int) -> Refused:
    """Return the refusal of a row with more than `longest` bytes."""
    return Refused(f"longer than {longest} bytes")


def bad_dataset(message: str, *, hint: str = "correct the dataset's files") -> StepError:
    """Return the error for a dataset whose files cannot be read."""
    return StepError("bad_dataset", message, hint=hint)


def deleted(message: str) -> StepError:
    """Return the error of a dataset whose files are gone."""
    return StepError("dataset_not_found", message, hint="upload the dataset again, or put its files back")
