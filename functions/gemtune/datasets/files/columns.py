"""Columns of a file of rows, read from a few of its bytes.

These are the first lines of JSONL, or the footer of Parquet. A Parquet file ends in its footer, the footer's length in
four bytes, and `PAR1` (https://parquet.apache.org/docs/file-format/). The footer is a struct in Thrift's compact
protocol (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md), whose second field is the
schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gemtune.datasets.files.wrapped_rows import unwrapped
from gemtune.untrusted import Unreadable, read_json

# Bytes after the footer, and the largest footer that is read.
END_BYTES, FOOTER_BYTES = 8, 256 * 1024
# Numbers of fields in Thrift: the footer's schema, a schema element's name, and its number of children.
SCHEMA, NAME, CHILDREN = 2, 4, 5
MAX_DEPTH = 8

# start, length -> these bytes of the file, or fewer where it ends earlier
ReadRange = Callable[[int, int], bytes]


def of_jsonl(start: bytes) -> frozenset[str] | None:
    """Return the keys with a value in the first complete row.

    None if these bytes contain no complete row.
    """
    for line in start.splitlines(keepends=True):
        try:
            row = read_json(line, named="a row", max_bytes=len(line), repeated_keys=True, not_finite=True)
        except Unreadable:  # an empty line, a damaged one, or an incomplete one at the end
            continue
        if isinstance(row, dict):
            row = unwrapped(row)
            return frozenset(name for name, value in row.items() if value is not None and value == value)  # not NaN
    return None


def of_parquet(size: int, read_range: ReadRange) -> frozenset[str] | None:
    """Return the names of a Parquet file's columns.

    None if it is not a Parquet file, or if its footer is too large.
    size: size of the file in bytes. read_range: returns a part of it.
    """
    end = read_range(max(0, size - END_BYTES), END_BYTES)
    length = int.from_bytes(end[:4], "little")
    if end[4:] != b"PAR1" or length + END_BYTES > size:
        return None
    footer = _Struct(read_range(size - END_BYTES - length, min(length, FOOTER_BYTES)))
    try:
        schema = next(value for field, value in footer.fields() if field == SCHEMA)
        return frozenset(_children_of_the_root(schema))
    except (StopIteration, ValueError, LookupError, TypeError, AttributeError):  # these bytes are not a footer
        return None


def _children_of_the_root(schema: list[dict[int, Any]]) -> Iterator[str]:
    """Yield the names of the root's children.

    A schema is a list of elements, each followed by its children.
    """
    index = 1  # of the next child of the root
    for _ in range(schema[0][CHILDREN]):
        yield schema[index][NAME].decode()
        remaining = 1  # elements to skip until the next child of the root
        while remaining > 0:
            remaining += schema[index].get(CHILDREN, 0) - 1
            index += 1


class _Struct:
    """Struct in Thrift's compact protocol.

    Its methods raise IndexError where the bytes end, and ValueError where they are not valid.
    """

    def __init__(self, content: bytes):
        self._content, self._place = content, 0

    def fields(self, depth: int = 0) -> Iterator[tuple[int, Any]]:
        """Yield the number and the value of each field.

        A value is a number, bytes, a list, or a dictionary of fields. depth: levels above this struct.
        """
        field = 0
        while (header := self._byte()) != 0:
            # The upper half of the byte is the difference to the previous field's number, the lower half is the type.
            delta, kind = header >> 4, header & 15
            field = field + delta if delta else self._integer()
            # The type of a boolean field is its value.
            yield field, kind == 1 if kind in (1, 2) else self._value(kind, depth)

    def _value(self, kind: int, depth: int) -> Any:
        """Read a value of a type, by the type's number in the protocol."""
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        match kind:
            case 1 | 2 | 3:  # true, false, i8
                return self._byte()
            case 4 | 5 | 6:  # i16, i32, i64
                return self._integer()
            case 7:  # double
                return self._bytes(8)
            case 8:  # binary
                return self._bytes(self._length())
            case 9 | 10:  # list, set: size and element type in one byte if the size is below 15
                header = self._byte()
                size = header >> 4 if header >> 4 < 15 else self._length()
                return [self._value(header & 15, depth + 1) for _ in range(size)]
            case 12:  # struct
                return dict(self.fields(depth + 1))
        raise ValueError(f"{kind} is not the number of a type in a footer")

    def _byte(self) -> int:
        """Read one byte."""
        self._place += 1
        return self._content[self._place - 1]

    def _bytes(self, length: int) -> bytes:
        """Read so many bytes."""
        self._place += length
        if self._place > len(self._content):
            raise IndexError("the footer ends too early")
        return self._content[self._place - length : self._place]

    def _length(self) -> int:
        """Read an unsigned number (varint).

        It has seven bits per byte, the lowest first.
        """
        number = 0
        for shift in range(0, 64, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError("a number of more than 64 bits")

    def _integer(self) -> int:
        """Read a signed number (zigzag).

        Its lowest bit is the sign.
        """
        number = self._length()
        return number >> 1 ^ -(number & 1)
