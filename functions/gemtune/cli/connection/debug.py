"""Log of the calls to the service, for `--debug`."""

from __future__ import annotations

import logging
import sys


def log_calls() -> None:
    """Print each call to the service to standard error, without contents."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("debug: %(message)s"))
    logger = logging.getLogger("gemtune.client")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.DEBUG)
