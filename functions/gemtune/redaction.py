"""Takes everything that looks like a token out of a text before anyone else sees it."""

from __future__ import annotations

import logging
import re

# Hugging Face tokens (hf_…), W&B keys (wandb_…, longer than any field's name, or 40 hexadecimal digits), and bearer
# tokens.
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{6,}|\bwandb_\w{16,}|\b[0-9a-f]{40}\b|(?<=Bearer )[\w.~+/-]{12,}")


def looks_secret(text: str) -> bool:
    """Whether any part of the text has the shape of a known kind of token."""
    return TOKEN.search(text) is not None


def redacted(text: str) -> str:
    """The text with every token replaced by `[secret]`."""
    return TOKEN.sub("[secret]", text)


class Redacting(logging.Formatter):
    """A formatter of log lines, tracebacks included, that lets no token through."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))
