"""One entry of the catalogue."""

from __future__ import annotations

from typing import NamedTuple


class ErrorCode(NamedTuple):
    """Why a program gets a code, and what its user can do about it; both are whole sentences."""

    cause: str
    remedy: str
