"""Log lines that Cloud Logging understands: one JSON object each, with its severity.

https://cloud.google.com/logging/docs/structured-logging
"""

from __future__ import annotations

import json
import logging
import sys

from gemtune.redaction import Redacting


class JsonLines(Redacting):
    """Nothing that looks like a token gets through."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"severity": record.levelname, "logger": record.name, "message": super().format(record)}
        return json.dumps(line, ensure_ascii=False)


def log_to_stdout() -> None:
    output = logging.StreamHandler(sys.stdout)
    output.setFormatter(JsonLines("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[output], force=True)
    for noisy in ("google", "urllib3", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
