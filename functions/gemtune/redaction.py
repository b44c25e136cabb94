"""Takes everything that looks like a token out of a text before anyone else sees it."""

from __future__ import annotations

import logging
import re

# Hugging Face tokens (hf_…) and W&B keys (wandb_…, longer than any field's name).
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{6,}|\bwandb_\w{16,}")
# And what may be one: older W&B keys are 40 hexadecimal digits, as commit ids are, which is no reason to refuse.
SUSPECT = re.compile(rf"{TOKEN.pattern}|\b[0-9a-f]{{40}}\b|(?<=Bearer )[\w.~+/-]{{12,}}")


def contains_token(text: str) -> bool:
    """Whether any part of the text can only be a token."""
    return TOKEN.search(text) is not None


def redact(text: str) -> str:
    """The text with everything that may be a token replaced by `[secret]`."""
    return SUSPECT.sub("[secret]", text)


class RedactingFormatter(logging.Formatter):
    """A formatter of log lines, tracebacks included, that lets no token through."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
