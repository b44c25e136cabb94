"""Layout of a GGUF file: its metadata, and where its tensors are.

The reader of llama.cpp's gguf package first makes an object of every token; for Gemma's 262,144 that takes 9 seconds
and 700 MB. Format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): a header with counts, the metadata (key,
type, value), one entry per tensor (name, dimensions, type, offset), and the aligned tensors. All numbers are
little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Types of metadata values: formats of `struct` for numbers, and the two composite types.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# The size of a string, in front of it.
SIZE = struct.Struct("<Q")
# Arrays with more items have one per token, and are read only if they are asked for.
SHORT = 1024
ALIGNMENT = 32  # unless general.alignment says otherwise


class InvalidGguf(Exception):
    """Raised for a file that is not GGUF, is truncated or is damaged."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Entry of one tensor.

    kind: number of its ggml type. shape: in numpy's order, the reverse of ggml's. offset: bytes from the beginning of
    the file.
    """

    name: str
    kind: int
    shape: tuple[int, ...]
    offset: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Contents:
    """Metadata and entries of the GGUF file `path`.

    metadata: numbers, strings, and arrays of numbers with at most SHORT items; of the others those that were asked for.
    keys: of all metadata, also of that which was not read. entries_at: where the entries begin, in bytes.
    """

    path: Path
    metadata: dict[str, Any]
    entries: list[Entry]
    keys: frozenset[str]
    entries_at: int

    @property
    def alignment(self) -> int:
        """Each tensor begins at a multiple of so many bytes."""
        return int(self.metadata.get("general.alignment", ALIGNMENT))


def contents(path: Path, arrays: Collection[str] = ()) -> Contents:
    """Read the metadata and the entries of a file. Raises InvalidGguf.

    arrays: keys of long arrays, or of arrays of strings, to read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return Contents(path, *_Cursor(data).contents(arrays))
        except (struct.error, UnicodeDecodeError, KeyError) as error:
            raise InvalidGguf(f"{path.name} is damaged: {error}") from error


class _Cursor:
    """Position in a file that is read from its beginning."""

    def __init__(self, data: mmap.mmap):
        self._data, self._at = data, 0

    def contents(self, arrays: Collection[str]) -> tuple[dict[str, Any], list[Entry], frozenset[str], int]:
        """Read metadata, entries, the keys of all metadata, and `entries_at`."""
        if self._data[:4] != b"GGUF":
            raise InvalidGguf("the file does not begin with GGUF")
        self._at = 8  # behind the version: versions 2 and 3 have the same layout
        tensors, count = self._number("Q"), self._number("Q")
        metadata, keys = {}, set()
        for _ in range(count):
            key = self._string()
            keys.add(key)
            value = self._value(self._number("I"), whole=key in arrays)
            if value is not None:
                metadata[key] = value
        entries_at = self._at
        entries = [self._entry() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", ALIGNMENT)
        start = -(-self._at // alignment) * alignment
        placed = [Entry(each.name, each.kind, each.shape, start + each.offset) for each in entries]
        return metadata, placed, frozenset(keys), entries_at

    def _entry(self) -> Entry:
        name = self._string()
        dimensions = [self._number("Q") for _ in range(self._number("I"))]
        return Entry(name, self._number("I"), tuple(reversed(dimensions)), self._number("Q"))

    def _value(self, kind: int, *, whole: bool) -> Any:
        """Read a metadata value.

        whole: read an array of any length. Otherwise the result is None for a long one and for one of strings.
        """
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._number(NUMBERS[kind])
        item_kind, count = self._number("I"), self._number("Q")
        if item_kind in NUMBERS:
            at, letter = self._at, NUMBERS[item_kind]
            self._at += count * struct.calcsize(letter)
            return list(struct.unpack_from(f"<{count}{letter}", self._data, at)) if whole or count <= SHORT else None
        if item_kind == STRING and not whole:
            self._skip_strings(count)
            return None
        items = [self._value(item_kind, whole=whole) for _ in range(count)]
        return items if whole else None

    def _string(self) -> str:
        size = self._number("Q")
        self._at += size
        return self._data[self._at - size : self._at].decode()

    def _skip_strings(self, count: int) -> None:
        """Skip strings, of which a vocabulary has some hundred thousand."""
        unpack, at = SIZE.unpack_from, self._at
        for _ in range(count):
            at += SIZE.size + unpack(self._data, at)[0]
        self._at = at

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(f"<{code}")
        return value
