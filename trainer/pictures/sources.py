"""Sources of a row's pictures: the row itself, or files of the dataset."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from gemtune.datasets.refusal import BadRow
from gemtune.errors import ObjectNotFound, UnsafeName
from trainer.dataset.folders import Folder
from trainer.pictures.decoding import MAX_BYTES


class PictureSource:
    """Reader of the pictures that rows contain or name.

    folder: the dataset's; files outside it are not read. files_read: paths of the files that were read.
    """

    def __init__(self, folder: Folder):
        self._folder = folder
        self.files_read: set[str] = set()

    def content(self, image: Any) -> bytes:
        """Return the encoded picture that a row's `image` stands for.

        image: {bytes, path}, of which one is enough and bytes take precedence; in JSONL, bytes are base64. A text is a
        path or a data: URL. Raises BadRow, and StepError `bad_dataset`.
        """
        if isinstance(image, str):
            image = {"bytes": image} if image.startswith("data:") else {"path": image}
        if not isinstance(image, dict):
            raise BadRow("a picture is neither a text nor {bytes, path}")
        content, path = image.get("bytes"), image.get("path")
        if isinstance(content, bytes):
            return content
        if isinstance(content, str):
            return _decoded(content)
        if content is not None or not isinstance(path, str) or not path:
            raise BadRow("a picture has neither bytes nor a path")
        return self._dataset_file(path)

    def _dataset_file(self, path: str) -> bytes:
        shown = path[:100].encode(errors="backslashreplace").decode()
        if "://" in path:
            raise BadRow(f"the picture {shown!r} is a URL; put the file into the dataset's folder")
        name = self._folder.relative(path)
        if path.startswith("/") or "\\" in path or ".." in name.split("/"):
            raise BadRow(f"the picture {shown!r} is outside the dataset's folder")
        size = self._folder.sizes.get(name)  # one listing replaces a request per picture
        if size is None:
            raise BadRow(f"the dataset's folder has no picture {shown!r}")
        if size > MAX_BYTES:
            raise BadRow(f"a picture of more than {MAX_BYTES} bytes")
        try:
            content = self._folder.read(name, MAX_BYTES)
        except (ObjectNotFound, UnsafeName):
            raise BadRow(f"the dataset's folder has no picture {shown!r}") from None
        self.files_read.add(name)
        return content


def _decoded(text: str) -> bytes:
    """Decode base64, or a data: URL with base64. Raises BadRow."""
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise BadRow("a picture's bytes are not base64") from None
