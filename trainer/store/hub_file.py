"""Large file of the Hub, read range by range."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType

# HTTP status of an answer with a range of a file.
PARTIAL = 206
TIMEOUT_SECONDS = 60
# Bytes that are skipped at once.
SKIPPED_BYTES = 1 << 20


class HubFile:
    """File of the Hub, of which no more than one range is in memory.

    The Hub answers each range by itself. Some mirrors of it know no ranges and send the file from its beginning; one
    such answer is read on as long as the ranges follow one another, so that the file is sent once.

    check_stop: called while bytes in front of a range are skipped, which may take minutes; what it raises passes.
    """

    def __init__(self, url: str, headers: Mapping[str, str], check_stop: Callable[[], None]):
        self._url = url
        self._check_stop = check_stop
        self._headers = dict(headers) | {"Accept-Encoding": "identity"}
        self._answer = ExitStack()
        self._chunks: Iterator[bytes] = iter(())
        # Offset of the first byte in `_ahead`, which was received and not asked for yet.
        self._position, self._ahead = 0, b""
        self._is_whole = False

    def __enter__(self) -> HubFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answer.close()

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from an offset on, or fewer at a file's end.

        Raises huggingface_hub's HfHubHTTPError, httpx2's TransportError.
        """
        if not self._is_whole or start < self._position:
            self._open(start, length)
        while start > self._position:
            before = self._position
            self._check_stop()
            self._take(min(SKIPPED_BYTES, start - before))
            if self._position == before:
                break
        content = self._take(length)
        if not self._is_whole:
            next(self._chunks, None)  # reads the end of the answer, so that the connection can be used again
        return content

    def _open(self, start: int, length: int) -> None:
        """Ask for a range; the answer may be the whole file."""
        from huggingface_hub.utils import get_session, hf_raise_for_status

        self._answer.close()
        self._is_whole = False
        headers = self._headers | {"Range": f"bytes={start}-{start + length - 1}"}
        # The Hub redirects to a storage, by an address that is valid for a while only.
        asking = get_session().stream("GET", self._url, headers=headers, follow_redirects=True, timeout=TIMEOUT_SECONDS)
        response = self._answer.enter_context(asking)
        hf_raise_for_status(response)
        self._is_whole = response.status_code != PARTIAL
        self._position, self._ahead = 0 if self._is_whole else start, b""
        self._chunks = response.iter_bytes()

    def _take(self, length: int) -> bytes:
        """Read on by so many bytes and return them, or fewer at the end."""
        parts, missing = [], length
        while missing:
            chunk = self._ahead or next(self._chunks, b"")
            if not chunk:
                break
            part, self._ahead = chunk[:missing], chunk[missing:]
            missing -= len(part)
            self._position += len(part)
            parts.append(part)
        return b"".join(parts)
