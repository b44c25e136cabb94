"""Kinds of files that hold rows, told by the ending of their names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Layout = Literal["json", "table", "parquet"]
Compression = Literal["gz", "zst"]

# Ending of the name -> how rows are laid out in the file. JSON files hold a row per line, or one array of rows.
LAYOUTS: dict[str, Layout] = {
    "jsonl": "json",
    "ndjson": "json",
    "json": "json",
    "csv": "table",
    "tsv": "table",
    "parquet": "parquet",
}
COMPRESSIONS: tuple[Compression, ...] = ("gz", "zst")
# JSON files of other programs, and requests for jobs beside a dataset with their answers. None of them holds rows.
OTHER_JSON = re.compile(
    r"(.*\.)?(job|accepted|rejected)\.json|(metadata|dataset_infos?|dataset_dict|state)\.json", re.IGNORECASE
)
# Files that describe a dataset to people or programs: nobody expects to train on them.
DESCRIPTIONS = re.compile(r"\..*|readme(\..*)?|licen[cs]e(\..*)?|.*\.job\.yaml|croissant\.json|_SUCCESS", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FileKind:
    """Kind of a file with rows.

    ending: a key of LAYOUTS. compression: None for a file that is not compressed, or compresses its parts itself.
    """

    ending: str
    compression: Compression | None = None

    @property
    def layout(self) -> Layout:
        """Return how rows are laid out in the file."""
        return LAYOUTS[self.ending]

    @property
    def suffix(self) -> str:
        """Return the end of the file's name, in lower case."""
        return f".{self.ending}" if self.compression is None else f".{self.ending}.{self.compression}"


KINDS: tuple[FileKind, ...] = tuple(
    FileKind(ending, compression)
    for ending, layout in LAYOUTS.items()
    for compression in ((None,) if layout == "parquet" else (None, *COMPRESSIONS))
)


def kind_of(path: str) -> FileKind | None:
    """Return the kind of a file by its name; None if it holds no rows."""
    name = path.rpartition("/")[2].lower()
    if OTHER_JSON.fullmatch(name):
        return None
    return next((kind for kind in KINDS if name.endswith(kind.suffix) and name != kind.suffix), None)


def is_description(path: str) -> bool:
    """Return whether a file without rows belongs to a dataset nevertheless."""
    name = path.rpartition("/")[2]
    return OTHER_JSON.fullmatch(name) is not None or DESCRIPTIONS.fullmatch(name) is not None
