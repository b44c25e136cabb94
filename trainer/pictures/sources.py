"""Where the pictures of a row are: in it, or in files beside the dataset."""

from __future__ import annotations

import base64
import binascii
from functools import cached_property
from typing import Any

from gemtune.errors import ObjectNotFound, StepError, UnsafeName
from gemtune.ports import Objects
from trainer.conversation.messages import BadRow
from trainer.pictures.decoding import MAX_BYTES


class PictureSource:
    """Reads what a row's `image` says; `folder` of the data bucket is the dataset's, and nothing outside it is read."""

    def __init__(self, data: Objects, folder: str):
        self._data, self._folder = data, folder

    def content(self, image: Any) -> bytes:
        """The file of a picture. image: {bytes, path}, of which one is enough and bytes go first; bytes are base64 in
        JSONL. A text alone is a path, or a data: URL. Raises BadRow, and StepError `bad_dataset`."""
        if isinstance(image, str):
            image = {"bytes": image} if image.startswith("data:") else {"path": image}
        if not isinstance(image, dict):
            raise BadRow("a picture is {bytes, path}")
        content, path = image.get("bytes"), image.get("path")
        if isinstance(content, bytes):
            return content
        if isinstance(content, str):
            return _decoded(content)
        if content is not None or not isinstance(path, str) or not path:
            raise BadRow("a picture with neither bytes nor a path")
        return self._beside(path)

    def _beside(self, path: str) -> bytes:
        shown = path[:100].encode(errors="backslashreplace").decode()
        if "://" in path:
            raise BadRow(f"the picture {shown!r} is an address; put the file beside the dataset")
        name = path if path.startswith(f"{self._folder}/") else f"{self._folder}/{path}"
        if path.startswith("/") or "\\" in path or ".." in name.split("/"):
            raise BadRow(f"the picture {shown!r} is outside the dataset")
        size = self._sizes.get(name)
        if size is None:
            raise BadRow(f"there is no picture {shown!r} in the dataset")
        if size > MAX_BYTES:
            raise BadRow(f"a picture of more than {MAX_BYTES} bytes")
        try:
            return self._data.read(name)
        except (ObjectNotFound, UnsafeName):
            raise BadRow(f"there is no picture {shown!r} in the dataset") from None

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Bytes of every file of the dataset: asked for at once, since each question to a bucket takes a while."""
        try:
            return {stat.name: stat.bytes for stat in self._data.list(f"{self._folder}/")}
        except UnsafeName as error:  # a link that leads out
            raise StepError("bad_dataset", error.message, hint=error.hint) from error


def _decoded(text: str) -> bytes:
    """Of base64, or of a data: URL of it."""
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise BadRow("a picture whose bytes are no base64") from None
