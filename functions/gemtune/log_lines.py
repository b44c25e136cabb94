"""Log lines: JSON objects with a severity for Cloud Logging, plain ones for a terminal. Neither shows a token.

https://cloud.google.com/logging/docs/structured-logging
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable

from gemtune.errors import CannotStore
from gemtune.redaction import RedactingFormatter

# How often a disk that takes nothing is named, of which every part of the service complains several times a second.
SECONDS_BETWEEN = 60.0
NOISY = ("google", "urllib3", "httpx2", "httpcore2", "waitress.queue", "watchdog")


class JsonLines(RedactingFormatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"severity": record.levelname, "logger": record.name, "message": super().format(record)}
        return json.dumps(line, ensure_ascii=False)


class DiskComplaints(logging.Filter):
    """Lets one record about a disk that takes nothing through in a while, as a sentence instead of a traceback."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        super().__init__()
        self._now = now
        self._quiet_until: float | None = None
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        error = _cannot_store(record.exc_info[1] if record.exc_info else None)
        if error is None:
            return True
        now = self._now()
        if self._quiet_until is not None and now < self._quiet_until:
            self._left_out += 1
            return False
        more = f" ({self._left_out} more times since this was last said)" if self._left_out else ""
        record.msg, record.args = f"{error.message}; {error.hint}{more}", ()
        record.exc_info = record.exc_text = None
        self._quiet_until, self._left_out = now + SECONDS_BETWEEN, 0
        return True


def log_to_stdout() -> None:
    """Log for Cloud Logging."""
    output = logging.StreamHandler(sys.stdout)
    output.setFormatter(JsonLines("%(message)s"))
    _log_to(output)


def log_to_stderr() -> None:
    """Log for a terminal."""
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    output.addFilter(DiskComplaints())
    _log_to(output)


def _log_to(output: logging.Handler) -> None:
    logging.basicConfig(level=logging.INFO, handlers=[output], force=True)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _cannot_store(error: BaseException | None) -> CannotStore | None:
    """The error about the disk that is this one, or that led to it."""
    while error is not None and not isinstance(error, CannotStore):
        error = error.__cause__ or error.__context__
    return error
