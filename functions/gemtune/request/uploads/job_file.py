"""Job files: requests in JSON or YAML."""

from __future__ import annotations

from typing import Any

from gemtune.errors import Problem, RequestRefused
from gemtune.untrusted import Unreadable, read_json, read_yaml


def as_json(content: bytes, *, yaml: bool) -> Any:
    """Decode a job file into JSON's types. Raises RequestRefused."""
    try:
        return read_yaml(content) if yaml else read_json(content)
    except Unreadable as error:
        raise RequestRefused([Problem(error.loc, error.message, error.code, error.hint)]) from None
