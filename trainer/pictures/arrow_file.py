"""Picture file: the media file of a vision job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.refusal import BadRow
from trainer.media.arrow_file import MediaFile
from trainer.media.sources import MediaSource
from trainer.pictures.decoding import picture_to_store, upright_size
from trainer.pictures.grids import Grid, Size

# max_seq_length is reached long before: a picture takes 260 tokens of Gemma 3.
MAX_PICTURES_PER_ROW = 32
NAME = "pictures.arrow"


@dataclass(frozen=True, slots=True)
class Picture:
    """A row's picture.

    content: the encoded file. size: after the rotation that its EXIF entry names.
    """

    content: bytes
    size: Size


class PictureFile(MediaFile):
    """Writer of a picture file.

    grid: how the model's processor resizes pictures.
    """

    column = "pictures"

    def __init__(self, path: Path, source: MediaSource, grid: Grid):
        super().__init__(path, source)
        self._grid = grid

    def open(self, conversation: Conversation) -> Conversation:
        """Return a row's conversation with a Picture for each image.

        Only headers are read. Raises BadRow.
        """
        images = conversation.images()
        if len(images) > MAX_PICTURES_PER_ROW:
            raise BadRow(f"{len(images)} pictures; a row can have at most {MAX_PICTURES_PER_ROW}")
        contents = [self.source.content(image) for image in images]
        return conversation.with_images([Picture(content, upright_size(content)) for content in contents])

    def store(self, conversation: Conversation) -> Sequence[int]:
        """Store the pictures of a row and return their numbers, in order.

        If one of them cannot be decoded, none is stored. Raises BadRow.
        """
        return self._add([picture_to_store(picture.content, self._grid) for picture in conversation.images()])
