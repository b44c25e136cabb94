"""Where a GGUF file has its tensors, and of what kind they are. llama.cpp's own reader makes objects of every token
first, of which Gemma has 262,144: 9 seconds and 700 MB.

Format: a header with counts, the metadata (key, type, value), an entry a tensor (name, dimensions, kind, offset), and
the tensors, aligned (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). All numbers are little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Types of metadata: format characters of `struct` for numbers, and the two that are made of others.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
ALIGNMENT = 32  # where the metadata say nothing else


class InvalidGguf(Exception):
    """The file is not GGUF, or not all of it is there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """kind: number of ggml's type. shape: rows last, as numpy has them. offset: from the beginning of the file."""

    name: str
    kind: int
    shape: tuple[int, ...]
    offset: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Contents:
    """metadata: numbers and strings by key; arrays are left out."""

    metadata: dict[str, Any]
    entries: list[Entry]


def contents(path: Path) -> Contents:
    """Raises InvalidGguf."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Cursor(data).contents()
        except (struct.error, UnicodeDecodeError, KeyError) as error:
            raise InvalidGguf(f"{path.name} is damaged: {error}") from error


class _Cursor:
    """Reads one thing after the other."""

    def __init__(self, data: mmap.mmap):
        self._data, self._at = data, 0

    def contents(self) -> Contents:
        if self._data[:4] != b"GGUF":
            raise InvalidGguf("it does not begin as GGUF does")
        self._at = 8  # the version too: those that are read here have the same layout
        tensors, keys = self._number("Q"), self._number("Q")
        metadata = {}
        for _ in range(keys):
            key, value = self._string(), self._value(self._number("I"))
            if value is not None:
                metadata[key] = value
        found = [self._entry() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", ALIGNMENT)
        start = -(-self._at // alignment) * alignment
        return Contents(metadata, [Entry(each.name, each.kind, each.shape, start + each.offset) for each in found])

    def _entry(self) -> Entry:
        name = self._string()
        dimensions = [self._number("Q") for _ in range(self._number("I"))]
        return Entry(name, self._number("I"), tuple(reversed(dimensions)), self._number("Q"))

    def _value(self, kind: int) -> Any:
        """None for an array, which is passed over."""
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._number(NUMBERS[kind])
        of, count = self._number("I"), self._number("Q")
        if of in NUMBERS:
            self._at += count * struct.calcsize(NUMBERS[of])
        else:
            for _ in range(count):
                self._value(of)
        return None

    def _string(self) -> str:
        size = self._number("Q")
        self._at += size
        return self._data[self._at - size : self._at].decode()

    def _number(self, format: str) -> Any:
        (value,) = struct.unpack_from(f"<{format}", self._data, self._at)
        self._at += struct.calcsize(f"<{format}")
        return value
