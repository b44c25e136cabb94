"""Files of text as streams of UTF-8, decompressed, without byte order mark."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gemtune.datasets.files.kinds import Compression
from gemtune.datasets.files.text_encoding import mark_of
from trainer.dataset.row import bad_dataset

CHUNK = 256 * 1024
# A file may decompress to this many times its size, and in any case to MIN_UNPACKED bytes. Text rarely compresses by
# more than 20; a stream of zeros does by 1,000 with gzip and by more than 10,000 with zstd.
MAX_RATIO, MIN_UNPACKED = 1000, 1024**3


@contextmanager
def open_text(path: Path, compression: Compression | None, *, named: str) -> Iterator[io.BufferedReader]:
    """Open a file of text and yield its content as UTF-8.

    A byte order mark tells UTF-16 and UTF-32; other files are UTF-8, which is not checked here. named: the file in
    error messages. Raises StepError `bad_dataset`, also while the content is read.
    """
    try:
        with path.open("rb") as file:
            yield _without_mark(_decompressed(file, compression, path.stat().st_size))
    except (OSError, EOFError, zlib.error) as error:  # gzip raises all of them, pyarrow OSError
        raise bad_dataset(f"{named} is damaged: {str(error)[:200]}", hint="use a whole copy of the file") from error
    except UnicodeDecodeError as error:
        raise bad_dataset(f"{named} is not valid {error.encoding.upper()}", hint="save the file as UTF-8") from error
    except _NoMark as error:
        message = f"{named} is not UTF-8; it may be UTF-16, whose byte order mark is missing"
        raise bad_dataset(message, hint="save the file as UTF-8") from error
    except _ExpandsTooFar as error:
        hint = "use the file without compression"
        raise bad_dataset(f"{named} expands to more than {error} bytes", hint=hint) from error


class _ExpandsTooFar(Exception):
    """Raised when a file decompresses to far more than its size."""


class _NoMark(Exception):
    """Raised for zero bytes, which UTF-8 does not have in text."""


def _decompressed(file: IO[bytes], compression: Compression | None, size: int) -> io.BufferedReader:
    """Return the decompressed content of a file of `size` bytes."""
    if compression is None:
        return io.BufferedReader(_Source(file), CHUNK)
    most = max(MIN_UNPACKED, size * MAX_RATIO)
    if compression == "gz":
        return io.BufferedReader(_Source(gzip.GzipFile(fileobj=file), most), CHUNK)
    import pyarrow as pa

    return io.BufferedReader(_Source(pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"), most), CHUNK)


def _without_mark(stream: io.BufferedReader) -> io.BufferedReader:
    """Return the stream as UTF-8 without its byte order mark.

    Raises _NoMark.
    """
    start = stream.peek(4)[:4]
    mark = mark_of(start)
    if not mark.content and b"\0" in start[:2]:
        raise _NoMark
    stream.read(len(mark.content))
    return stream if mark.encoding == "utf-8" else io.BufferedReader(_Transcoded(stream, mark.encoding), CHUNK)


class _Source(io.RawIOBase):
    """Raw stream over any object with `read`, with a limit of bytes."""

    def __init__(self, source: Any, most: int | None = None):
        self._source, self._left, self._most = source, most, most

    def readable(self) -> bool:
        """Return True: the stream can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer and return the number of bytes.

        Raises _ExpandsTooFar.
        """
        content = self._source.read(len(buffer))
        buffer[: len(content)] = content
        if self._left is not None:
            self._left -= len(content)
            if self._left < 0:
                raise _ExpandsTooFar(self._most)
        return len(content)


class _Transcoded(io.RawIOBase):
    """Raw stream of UTF-8 over a stream of another encoding."""

    def __init__(self, source: io.BufferedReader, encoding: str):
        self._source, self._decoder = source, codecs.getincrementaldecoder(encoding)()
        self._waiting = b""

    def readable(self) -> bool:
        """Return True: the stream can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer and return the number of bytes.

        Raises UnicodeDecodeError.
        """
        while not self._waiting:
            content = self._source.read(CHUNK)
            self._waiting = self._decoder.decode(content, final=not content).encode()
            if not content:
                break
        part = self._waiting[: len(buffer)]
        self._waiting = self._waiting[len(part) :]
        buffer[: len(part)] = part
        return len(part)
