"""What goes wrong in a workflow: in its file, in one of its calls, or in the whole of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class WorkflowSyntaxError(Exception):
    """The file is not a workflow that this interpreter runs."""

    def __init__(self, file: Path, line: int, message: str):
        super().__init__(f"{file}:{line}: {message}")
        self.file, self.line, self.message = file, line, message


class WorkflowError(Exception):
    """An error as workflows see it: a map with `message` and `tags`, and more by kind. `except` can catch it."""

    def __init__(self, error: Mapping[str, Any]):
        super().__init__(str(error.get("message", error)))
        self.error = dict(error)


class WorkflowFailed(Exception):
    """An error that the workflow did not catch."""

    def __init__(self, error: Mapping[str, Any]):
        super().__init__(str(error.get("message", error)))
        self.error = dict(error)


def language_error(tag: str, message: str, **more: Any) -> WorkflowError:
    """An error of the language itself, by its tag: KeyError, TypeError, …"""
    return WorkflowError({"message": message, "tags": [tag], **more})
