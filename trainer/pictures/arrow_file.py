"""Picture file: the pictures of all prepared rows, each stored once.

It is an Arrow file, which train maps into memory rather than reading it whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from trainer.conversation.dataset_files import Refused
from trainer.conversation.messages import BadRow, Messages, pictures_in
from trainer.pictures.decoding import picture_to_store
from trainer.pictures.sources import PictureSource
from trainer.store.file_writer import FileWriter

# max_seq_length is reached long before: a picture takes 260 tokens of Gemma 3.
MAX_PICTURES_PER_ROW = 32
# Pictures are written in batches of about this many bytes.
BATCH_BYTES = 16 * 1024 * 1024


class PictureFile(FileWriter):
    """Writer of a picture file, which also checks the pictures.

    size: width and height to which the model's processor resizes every picture; None if that depends on the picture.
    """

    def __init__(self, path: Path, source: PictureSource, size: tuple[int, int] | None):
        import pyarrow as pa

        self._source, self._size = source, size
        self._schema = pa.schema([("picture", pa.large_binary())])
        self._writer = pa.ipc.new_file(str(path), self._schema)
        self._numbers: dict[bytes, int] = {}
        self._waiting: list[bytes] = []

    def _finish(self) -> None:
        self._flush()

    def _close(self) -> None:
        self._writer.close()

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, messages: Messages) -> list[int] | Refused:
        """Store the pictures of a row and return their numbers, in order.

        If one of them cannot be used, the row is refused and none is stored.
        """
        images = pictures_in(messages)
        if len(images) > MAX_PICTURES_PER_ROW:
            return Refused(f"{len(images)} pictures; a row can have at most {MAX_PICTURES_PER_ROW}")
        try:
            checked = [picture_to_store(self._source.content(image), self._size) for image in images]
        except BadRow as bad:
            return Refused(str(bad))
        return [self._number(content) for content in checked]

    def _number(self, content: bytes) -> int:
        digest = hashlib.sha256(content).digest()
        if digest not in self._numbers:
            self._numbers[digest] = len(self._numbers)
            self._waiting.append(content)
            if sum(map(len, self._waiting)) >= BATCH_BYTES:
                self._flush()
        return self._numbers[digest]

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            self._writer.write_batch(pa.record_batch([pa.array(self._waiting, pa.large_binary())], schema=self._schema))
            self._waiting = []


def store_pictures(picture_file: PictureFile | None, messages: Messages) -> Sequence[int] | Refused:
    """Store a row's pictures and return their numbers; () in a text job."""
    return () if picture_file is None else picture_file.add(messages)


class PictureFileReader:
    """Reader of a memory-mapped picture file: encoded pictures by number."""

    def __init__(self, path: Path):
        import pyarrow as pa

        self._pictures = pa.ipc.open_file(pa.memory_map(str(path))).read_all().column("picture")

    def __getitem__(self, number: int) -> bytes:
        content: bytes = self._pictures[number].as_py()
        return content
