"""Regular expressions of users, in RE2.

For every pattern RE2 takes time linear in the length of the text.
"""

from __future__ import annotations

from typing import Any

# Memory limit of a compiled pattern in bytes, which is RE2's own default.
MEMORY = 8 * 1024 * 1024


def compile_pattern(pattern: str) -> Any:
    """Compile a pattern; the result has the method `search`.

    Raises ValueError, with RE2's reason, for a pattern that RE2 cannot run.
    """
    import re2

    options = re2.Options()
    options.log_errors, options.max_mem = False, MEMORY
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        reason = error.args[0] if error.args else "it does not compile"
        raise ValueError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None
