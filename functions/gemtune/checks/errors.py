"""Errors of checks of datasets."""

from __future__ import annotations

from gemtune.errors import Conflict, NotFound


class CheckNotFound(NotFound):
    """Raised when a dataset has no such check, or none that can be read."""

    code = "no_such_check"

    def __init__(self, dataset_id: str, check_id: str):
        hint = f"begin one with POST /datasets/{dataset_id}/check; checks are deleted after seven days"
        message = f"there is no check {check_id!r} of {dataset_id!r} that this version can read"
        super().__init__(message, hint=hint)


class TooManyChecks(Conflict):
    """Raised when as many checks run on a workstation as it can take."""

    code = "too_many_checks"

    def __init__(self, running: int):
        super().__init__(f"{running} checks are running already", hint="wait until one of them is done")


class RowsNotReadable(Conflict):
    """Raised when rows cannot be read page by page."""

    code = "rows_not_readable"

    def __init__(self, message: str, *, hint: str):
        super().__init__(message, hint=hint)
