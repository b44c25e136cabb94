"""Errors of workflows: in the file, in a call, and in an execution as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class WorkflowSyntaxError(Exception):
    """Raised for a file that this interpreter does not support as a workflow."""

    def __init__(self, file: Path, line: int, message: str):
        super().__init__(f"{file}:{line}: {message}")
        self.file, self.line, self.message = file, line, message


class WorkflowError(Exception):
    """Error that a workflow's `except` can catch.

    `error` is what the workflow gets: a map with `message`, `tags` and further keys that depend on the tags.
    """

    def __init__(self, error: Mapping[str, Any]):
        super().__init__(str(error.get("message", error)))
        self.error = dict(error)


class WorkflowFailed(Exception):
    """Raised for an execution that ended with an uncaught error.

    `error` is the error's map.
    """

    def __init__(self, error: Mapping[str, Any]):
        super().__init__(str(error.get("message", error)))
        self.error = dict(error)


def language_error(tag: str, message: str, **more: Any) -> WorkflowError:
    """Return an error of the language itself with a tag such as KeyError."""
    return WorkflowError({"message": message, "tags": [tag], **more})
