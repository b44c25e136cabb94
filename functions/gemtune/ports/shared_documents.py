"""Store of small documents that several jobs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol


class SharedDocuments(Protocol):
    """Small documents by name that several jobs share.

    A document is a text of at most 500 KB. Names consist of letters, digits, `-`, `_`, `.` and `/`.
    """

    def read(self, name: str) -> str | None:
        """Return a document's text, or None if there is no such document."""
        ...

    def update(self, name: str, change: Callable[[str | None], str | None]) -> str | None:
        """Change a document in one transaction and return the stored text.

        `change` gets the text, or None if there is no such document. Returning an equal text means that nothing is
        written, and returning None that the document is deleted. The store may call `change` several times.
        """
        ...

    def names(self, prefix: str, *, before: str | None = None) -> Iterator[str]:
        """Yield the names that begin with `prefix`, sorted.

        before: where they end; names from this one on are left out, and not read.
        """
        ...
