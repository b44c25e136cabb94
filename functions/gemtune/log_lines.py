"""Log lines: JSON for Cloud Logging, plain text for a terminal.

Both redact tokens. The format of the JSON lines:

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

# While the disk is full, every part of the service logs an error several times per second; one per minute is enough.
SECONDS_BETWEEN_DISK_ERRORS = 60.0
# Loggers of libraries that are shown from WARNING on.
NOISY = ("google", "urllib3", "httpx2", "httpcore2", "waitress.queue", "watchdog")


class JsonFormatter(RedactingFormatter):
    """Formatter that writes one JSON object per line for Cloud Logging."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"severity": record.levelname, "logger": record.name, "message": super().format(record)}
        return json.dumps(line, ensure_ascii=False)


class DiskErrorThrottle(logging.Filter):
    """Filter that logs at most one disk error per minute, without traceback.

    A record counts as one if its exception is CannotStore or was caused by it. Other records pass unchanged.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        super().__init__()
        self._now = now
        self._quiet_until: float | None = None
        self._suppressed = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record; shorten a disk error."""
        error = _disk_error_behind(record.exc_info[1] if record.exc_info else None)
        if error is None:
            return True
        now = self._now()
        if self._quiet_until is not None and now < self._quiet_until:
            self._suppressed += 1
            return False
        more = f" ({self._suppressed} more errors like this were not logged)" if self._suppressed else ""
        record.msg, record.args = f"{error.message}; {error.hint}{more}", ()
        record.exc_info = record.exc_text = None
        self._quiet_until, self._suppressed = now + SECONDS_BETWEEN_DISK_ERRORS, 0
        return True


def log_to_stdout() -> None:
    """Configure logging for Cloud Logging: JSON lines on standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter("%(message)s"))
    _log_to(handler)


def log_to_stderr() -> None:
    """Configure logging for a terminal: plain lines on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(DiskErrorThrottle())
    _log_to(handler)


def _log_to(handler: logging.Handler) -> None:
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _disk_error_behind(error: BaseException | None) -> CannotStore | None:
    """Return the first CannotStore in an exception's chain of causes, or None.

    The exception itself is part of the chain.
    """
    while error is not None and not isinstance(error, CannotStore):
        error = error.__cause__ or error.__context__
    return error
