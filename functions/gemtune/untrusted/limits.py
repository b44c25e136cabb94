"""Limits of untrusted documents, and the errors for exceeding them."""

from __future__ import annotations

import re

from gemtune.errors import GemtuneError

# Limit in bytes for a request, a job file, a row of text, and a model's config.json.
MAX_BYTES = 1024 * 1024
# Limit in bytes for other files of a model: Gemma 3's tokenizer_config.json is 1.2 MB, its tokenizer.json 33 MB.
MAX_MODEL_FILE_BYTES = 128 * 1024 * 1024
# Limit in bytes for YAML, which is parsed in Python at about 70 KB per second.
MAX_YAML_BYTES = 64 * 1024
# A request has five levels around a reward's JSON Schema, which may have 32 with two levels each.
MAX_DEPTH = 80
# A float holds whole numbers of up to 309 digits. Tokenizer configurations do contain 10^30.
MAX_DIGITS = 300
# The largest whole number on which implementations of JSON agree (RFC 8259, section 6).
MAX_NUMBER = 2**53 - 1

LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Unreadable(GemtuneError):
    """Raised for an untrusted document that violates its format or a limit.

    code: what it violates. loc: the location in the document, as far as it is known.
    """

    code = "unreadable"

    def __init__(self, code: str, message: str, *, hint: str, loc: tuple[str | int, ...] = ()):
        super().__init__(message, hint=hint)
        self.code = code  # type: ignore[misc]
        self.loc = loc


def too_large(named: str, max_bytes: int) -> Unreadable:
    """Return the error for a document that is too large."""
    return Unreadable("too_large", f"{named} has more than {max_bytes} bytes", hint="make it smaller")


def too_deep(named: str) -> Unreadable:
    """Return the error for a document that is nested too deeply."""
    return Unreadable("too_deep", f"{named} is nested deeper than {MAX_DEPTH} levels", hint="see GET /openapi.json")


def lone_surrogate(named: str, loc: tuple[str | int, ...] = ()) -> Unreadable:
    """Return the error for half of a surrogate pair.

    loc: place in the document. Parts of it that are not valid text themselves are left out.
    """
    message = f"{named} has half of a surrogate pair, which is not a character"
    valid_loc = tuple(part for part in loc if isinstance(part, int) or not LONE_SURROGATE.search(part))
    return Unreadable("not_text", message, hint="send \\u escapes of surrogates in pairs, or UTF-8", loc=valid_loc)
