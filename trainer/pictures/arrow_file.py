"""Picture file: the pictures of all prepared rows, each stored once.

It is an Arrow file, which train maps into memory rather than reading it whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.refusal import BadRow
from trainer.pictures.decoding import picture_to_store, upright_size
from trainer.pictures.grids import Grid, Size
from trainer.pictures.sources import PictureSource
from trainer.store.file_writer import FileWriter

# max_seq_length is reached long before: a picture takes 260 tokens of Gemma 3.
MAX_PICTURES_PER_ROW = 32
# Pictures are written in batches of about this many bytes.
BATCH_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Picture:
    """A row's picture.

    content: the encoded file. size: after the rotation that its EXIF entry names.
    """

    content: bytes
    size: Size


class PictureFile(FileWriter):
    """Writer of a picture file, which also checks the pictures.

    grid: how the model's processor resizes them.
    """

    def __init__(self, path: Path, source: PictureSource, grid: Grid):
        import pyarrow as pa

        self._source, self._grid = source, grid
        self._schema = pa.schema([("picture", pa.large_binary())])
        self._writer = pa.ipc.new_file(str(path), self._schema)
        self._numbers: dict[bytes, int] = {}
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    def _finish(self) -> None:
        self._flush()

    def _close(self) -> None:
        self._writer.close()

    def __len__(self) -> int:
        return len(self._numbers)

    def open(self, conversation: Conversation) -> Conversation:
        """Return a row's conversation with a Picture for each image.

        Only headers are read. Raises BadRow.
        """
        images = conversation.images()
        if len(images) > MAX_PICTURES_PER_ROW:
            raise BadRow(f"{len(images)} pictures; a row can have at most {MAX_PICTURES_PER_ROW}")
        contents = [self._source.content(image) for image in images]
        return conversation.with_images([Picture(content, upright_size(content)) for content in contents])

    def add(self, pictures: Sequence[Picture]) -> list[int]:
        """Store the pictures of a row and return their numbers, in order.

        If one of them cannot be decoded, none is stored. Raises BadRow.
        """
        checked = [picture_to_store(picture.content, self._grid) for picture in pictures]
        return [self._number(content) for content in checked]

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


def open_pictures(picture_file: PictureFile | None, conversation: Conversation) -> Conversation:
    """Return a conversation with its pictures opened.

    In a text job it stays as it is. Raises BadRow.
    """
    return conversation if picture_file is None else picture_file.open(conversation)


def store_pictures(picture_file: PictureFile | None, conversation: Conversation) -> Sequence[int]:
    """Store the pictures of an opened conversation and return their numbers.

    Returns () in a text job. Raises BadRow.
    """
    return () if picture_file is None else picture_file.add(conversation.images())


class PictureFileReader:
    """Reader of a memory-mapped picture file: encoded pictures by number."""

    def __init__(self, path: Path):
        import pyarrow as pa

        self._pictures = pa.ipc.open_file(pa.memory_map(str(path))).read_all().column("picture")

    def __getitem__(self, number: int) -> bytes:
        content: bytes = self._pictures[number].as_py()
        return content
