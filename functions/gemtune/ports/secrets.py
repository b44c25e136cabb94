"""Store of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SecretStat:
    """Name and creation time of a secret."""

    name: str
    created_at: datetime


class Secrets(Protocol):
    """Tokens by name. No other code stores or reads their values."""

    def create(self, name: str, value: str, *, ttl: timedelta | None) -> None:
        """Store or replace a value that expires after `ttl`, or never."""
        ...

    def create_once(self, name: str, value: str) -> str:
        """Store a value unless the name has one; return the stored value.

        The value never expires. Of several concurrent callers, the first one's value is stored and all of them get it.
        """
        ...

    def read(self, name: str) -> str:
        """Return a value.

        Raises SecretNotFound if there is none or it has expired.
        """
        ...

    def renew(self, name: str, *, ttl: timedelta) -> None:
        """Make a secret expire `ttl` from now. Raises SecretNotFound."""
        ...

    def delete(self, name: str) -> None:
        """Delete a secret if it exists."""
        ...

    def list(self, prefix: str) -> Iterator[SecretStat]:
        """Yield the secrets whose names begin with `prefix`."""
        ...
