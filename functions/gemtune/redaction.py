"""Redaction of tokens in texts that are shown, logged or stored."""

from __future__ import annotations

import logging
import re

# Hugging Face tokens (hf_…) and W&B keys (wandb_…, longer than any field's name).
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{6,}|\bwandb_\w{16,}")
# Texts that may be tokens. They are redacted but not rejected: an older W&B key has 40 hexadecimal digits, and so has a
# commit id. A signed URL of Cloud Storage gives access by its signature.
SUSPECT = re.compile(
    rf"{TOKEN.pattern}|\b[0-9a-f]{{40}}\b|(?<=Bearer )[\w.~+/-]{{12,}}|(?i:(?<=X-Goog-Signature=))[0-9A-Fa-f]{{12,}}"
)


def contains_token(text: str) -> bool:
    """Return whether a text contains something that can only be a token."""
    return TOKEN.search(text) is not None


def redact(text: str) -> str:
    """Replace everything in a text that may be a token by `[secret]`."""
    return SUSPECT.sub("[secret]", text)


def redact_rest(before: str, text: str) -> str:
    """Redact a text that goes on where another one ends, perhaps in a token.

    before: end of the other text. The rest of a token that began in it is left out.
    """
    spans = [match.span() for match in SUSPECT.finditer(before + text)]
    rest = next((end - len(before) for start, end in spans if start < len(before) < end), 0)
    return redact(text[rest:])


class RedactingFormatter(logging.Formatter):
    """Log formatter that redacts tokens in messages and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _RedactingFilter(logging.Filter):
    """Log filter that redacts tokens in messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        return True


_FILTER = _RedactingFilter()


def redact_logs_of(logger: str) -> None:
    """Redact tokens in the messages of a logger, whatever its handlers.

    A library may log the URLs that it is called with, and the program's own configuration of logs may show them.
    """
    logging.getLogger(logger).addFilter(_FILTER)
