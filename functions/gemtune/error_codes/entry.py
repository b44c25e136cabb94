"""One entry of the catalogue."""

from __future__ import annotations

from typing import NamedTuple


class ErrorCode(NamedTuple):
    """Cause of an error, and what its user can do; both are whole sentences."""

    cause: str
    remedy: str
