"""Media file: the pictures or audio of all prepared rows, each stored once.

It is an Arrow file, which train maps into memory rather than reading it whole.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

from gemtune.datasets.conversation import Conversation
from trainer.media.sources import MediaSource
from trainer.store.file_writer import FileWriter

# Files are written in batches of about this many bytes.
BATCH_BYTES = 16 * 1024 * 1024


class MediaFile(FileWriter):
    """Writer of a media file, which also checks the media.

    column: its name in token files, for the numbers of a row's media. source: where rows' media are read from.
    """

    column: str

    def __init__(self, path: Path, source: MediaSource):
        import pyarrow as pa

        self.source = source
        self._schema = pa.schema([("content", pa.large_binary())])
        self._writer = pa.ipc.new_file(str(path), self._schema)
        self._numbers: dict[bytes, int] = {}
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    @abstractmethod
    def open(self, conversation: Conversation) -> Conversation:
        """Return a row's conversation with opened media. Raises BadRow."""

    @abstractmethod
    def store(self, conversation: Conversation) -> Sequence[int]:
        """Store the media of an opened conversation; return their numbers.

        If one of them cannot be used, none is stored. Raises BadRow.
        """

    def _finish(self) -> None:
        self._flush()

    def _close(self) -> None:
        self._writer.close()

    def __len__(self) -> int:
        return len(self._numbers)

    def _add(self, contents: Iterable[bytes]) -> list[int]:
        """Store encoded files and return their numbers, in order."""
        return [self._number(content) for content in contents]

    def _number(self, content: bytes) -> int:
        digest = hashlib.sha256(content).digest()
        if digest not in self._numbers:
            self._numbers[digest] = len(self._numbers)
            self._waiting.append(content)
            self._waiting_bytes += len(content)
            if self._waiting_bytes >= BATCH_BYTES:
                self._flush()
        return self._numbers[digest]

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            self._writer.write_batch(pa.record_batch([pa.array(self._waiting, pa.large_binary())], schema=self._schema))
            self._waiting, self._waiting_bytes = [], 0


def open_media(media_file: MediaFile | None, conversation: Conversation) -> Conversation:
    """Return a conversation with its media opened.

    In a text job it stays as it is. Raises BadRow.
    """
    return conversation if media_file is None else media_file.open(conversation)


def store_media(media_file: MediaFile | None, conversation: Conversation) -> Sequence[int]:
    """Store the media of an opened conversation and return their numbers.

    Returns () in a text job. Raises BadRow.
    """
    return () if media_file is None else media_file.store(conversation)


class MediaFileReader:
    """Reader of a memory-mapped media file: encoded files by number."""

    def __init__(self, path: Path):
        import pyarrow as pa

        self._contents = pa.ipc.open_file(pa.memory_map(str(path))).read_all().column(0)

    def __getitem__(self, number: int) -> bytes:
        content: bytes = self._contents[number].as_py()
        return content
