"""Base class of files that are written piece by piece."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class FileWriter(ABC):
    """Unfinished file. Leaving its `with` block completes and closes it.

    If the block raises, the file is only closed.
    """

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
        """Write what is still missing; not called if the block raised."""

    @abstractmethod
    def _close(self) -> None:
        """Release the file."""
