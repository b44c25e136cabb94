"""Sources of a row's pictures or audio: the row itself, or files beside it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from gemtune.datasets.refusal import BadRow
from gemtune.errors import ObjectNotFound, UnsafeName
from trainer.dataset.folders import Folder

# The most bytes of an encoded file.
MAX_BYTES = 20 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Noun:
    """Words for a kind of medium in messages: `a picture`, `pictures`."""

    one: str
    many: str

    @property
    def name(self) -> str:
        """Return the noun without its article."""
        return self.one.partition(" ")[2]


PICTURE, CLIP = Noun("a picture", "pictures"), Noun("an audio clip", "audio clips")


class MediaSource:
    """Reader of the pictures or audio clips that rows contain or name.

    folder: the dataset's; files outside it are not read. files_read: paths of the files that were read.
    """

    def __init__(self, folder: Folder, noun: Noun = PICTURE):
        self._folder, self._noun = folder, noun
        self.files_read: set[str] = set()

    def content(self, medium: Any) -> bytes:
        """Return the encoded file that a row's `image` or `audio` stands for.

        medium: {bytes, path}, of which one is enough and bytes take precedence; in JSONL, bytes are base64. A text is a
        path or a data: URL. Raises BadRow, and StepError `bad_dataset`.
        """
        if isinstance(medium, str):
            medium = {"bytes": medium} if medium.startswith("data:") else {"path": medium}
        if not isinstance(medium, dict):
            raise BadRow(f"{self._noun.one} is neither a text nor {{bytes, path}}")
        content, path = medium.get("bytes"), medium.get("path")
        if isinstance(content, bytes):
            return content
        if isinstance(content, str):
            return self._decoded(content)
        if content is not None or not isinstance(path, str) or not path:
            raise BadRow(f"{self._noun.one} has neither bytes nor a path")
        return self._dataset_file(path)

    def _dataset_file(self, path: str) -> bytes:
        shown = f"{self._noun.name} {path[:100].encode(errors='backslashreplace').decode()!r}"
        if "://" in path:
            raise BadRow(f"the {shown} is a URL; put the file into the dataset's folder")
        name = self._folder.relative(path)
        if path.startswith("/") or "\\" in path or ".." in name.split("/"):
            raise BadRow(f"the {shown} is outside the dataset's folder")
        missing = f"the dataset's folder has no {shown}"
        size = self._folder.sizes.get(name)  # one listing replaces a request per file
        if size is None:
            raise BadRow(missing)
        if size > MAX_BYTES:
            raise BadRow(f"{self._noun.one} of more than {MAX_BYTES} bytes")
        try:
            content = self._folder.read(name, MAX_BYTES)
        except (ObjectNotFound, UnsafeName):
            raise BadRow(missing) from None
        self.files_read.add(name)
        return content

    def _decoded(self, text: str) -> bytes:
        """Decode base64, or a data: URL with base64. Raises BadRow."""
        encoded = text.partition(",")[2] if text.startswith("data:") else text
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise BadRow(f"{self._noun.one}'s bytes are not base64") from None
