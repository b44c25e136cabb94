"""Files that are written piece by piece."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class FileWriter(ABC):
    """A file in the making. A `with` block that ends without an error completes it; either way it is closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._close()

    @abstractmethod
    def _finish(self) -> None:
        """Write what is still missing. Not called after an error: the file is then incomplete, and nobody reads it."""

    @abstractmethod
    def _close(self) -> None:
        """Release the file."""
