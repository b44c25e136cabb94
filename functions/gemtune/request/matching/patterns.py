"""Regular expressions of users: RE2, whose time is linear in the text whatever the pattern is."""

from __future__ import annotations

from typing import Any

# What a compiled pattern may take, in bytes: RE2's own default.
MEMORY = 8 * 1024 * 1024


def compile_pattern(pattern: str) -> Any:
    """A pattern with `search`. Raises ValueError, with RE2's reason, for one that RE2 cannot run."""
    import re2

    options = re2.Options()
    options.log_errors, options.max_mem = False, MEMORY
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        reason = error.args[0] if error.args else "it does not compile"
        raise ValueError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None
