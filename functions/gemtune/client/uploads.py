"""Upload of files as a dataset.

It is sent in parts, to the storage itself or to the service, and goes on where it was interrupted. A link to the
storage takes one part for an hour. Data that goes there is faster and cheaper, and does not pass the service; but some
services cannot make links, and some networks do not reach the storage.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gemtune.client.calls import Call, LinkedPut, Operation, Pause
from gemtune.client.errors import (
    BadUse,
    LinkRefused,
    NoSuchColumn,
    Refused,
    StorageUnreachable,
    Unreachable,
    UploadInterrupted,
)
from gemtune.datasets.files.kinds import KINDS, kind_of
from gemtune.datasets.uploads.record import DatasetFile, dataset_id_of
from gemtune.handlers.answers import Dataset, PartLink, PartLinks, PartStored

log = logging.getLogger(__name__)

# Attempts for a part while its receiver is unreachable, and the seconds before the second one, doubled each time.
ATTEMPTS, FIRST_PAUSE_SECONDS = 6, 1.0
# Links that are fetched at once. On a slow line, parts of 8 MiB for that many take long, and links expire.
LINKS_PER_CALL = 32
# Seconds for the answer to the last call, for which the service reads all that was sent. On Google Cloud it has ten
# minutes, see terraform/functions.tf.
COMPLETION_SECONDS = 660.0

Report = Callable[[int, int], None]
Part = tuple[int, int]


@dataclass(frozen=True)
class LocalDataset:
    """Files of this machine that are a dataset, by their names in it."""

    files: Mapping[str, Path]

    @cached_property
    def described(self) -> list[DatasetFile]:
        """Return their sizes and hashes, which takes a while for large ones."""
        return [
            DatasetFile(path=path, bytes=file.stat().st_size, sha256=_sha256(file)) for path, file in self.files.items()
        ]

    @property
    def dataset_id(self) -> str:
        """Return the id that a dataset of these files has."""
        return dataset_id_of(self.described)


def files_of(data: Path, held_out: Path | None) -> LocalDataset:
    """Return the files of a dataset.

    data: a file with the rows to train on, or a folder, whose files keep their names. held_out: a file with the rows
    to evaluate. Raises BadUse for a file that holds no rows.
    """
    if data.is_dir():
        if held_out is not None:
            raise BadUse(f"held-out rows go with a file: the folder {data} has its own file for evaluation")
        paths = sorted(path for path in data.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(data)))
        if not paths:
            raise BadUse(f"{data} has no files")
        return LocalDataset({path.relative_to(data).as_posix(): path for path in paths})
    splits = {"train": data} | ({} if held_out is None else {"eval": held_out})
    return LocalDataset({f"{split}{suffix_of(path)}": path for split, path in splits.items()})


def check_columns(files: LocalDataset, columns: object) -> None:
    """Raise NoSuchColumn if no row can have the column of a field.

    Files whose columns only their rows tell are left to the service. columns: names of columns by field, as a request
    has them; what is wrong with them otherwise, the service says.
    """
    paths = [path for name, path in files.files.items() if kind_of(name) is not None]
    if not columns or not isinstance(columns, Mapping) or not paths:
        return
    from gemtune.datasets.files import absent_columns
    from gemtune.datasets.formats import table
    from gemtune.datasets.reading import advice
    from gemtune.datasets.rl import formats as rl_formats

    first = absent_columns.first_columns(paths[0])
    if first is None:
        return
    for field, column in columns.items():
        if not isinstance(column, str) or column in first:
            continue
        if all(absent_columns.lacks(path, column) for path in paths):
            row = dict.fromkeys(first, "")
            message, hint = advice.about_absent_column(column, field, row, table.FIELDS | rl_formats.FIELDS)
            raise NoSuchColumn(message, hint=hint)


def find(files: LocalDataset) -> Operation[Dataset | None]:
    """Return the dataset of these files, or None if the service has none."""
    try:
        dataset: Dataset = yield Call("GET", f"/datasets/{files.dataset_id}", Dataset)
    except Refused as error:
        if error.status == 404:
            return None
        raise
    return dataset


def begin(files: LocalDataset, *, name: str, tags: Sequence[str]) -> Operation[Dataset]:
    """Announce files, and return their dataset with what is missing of it.

    A dataset of the same files gets the name and the tags.
    """
    announced = [file.model_dump() for file in files.described]
    body = {"name": name, "tags": list(tags), "files": announced}
    dataset: Dataset = yield Call("POST", "/datasets", Dataset, json=body)
    return dataset


def send_missing(
    dataset: Dataset, files: LocalDataset, report: Report = lambda sent, total: None
) -> Operation[Dataset]:
    """Send the missing parts of a dataset, and complete it.

    report: is called with the number of parts that are sent, and with that of all. A part is sent again while the
    service is unreachable; raises UploadInterrupted in the end.
    """
    if dataset.status == "ready":
        return dataset
    paths = [files.files[file.path] for file in dataset.files]
    missing = [(file, part) for file, parts in dataset.missing_parts.items() for part in parts]
    sender = _PartSender(dataset, missing)
    for sent, (file, part) in enumerate(missing):
        report(sent, len(missing))
        with paths[file].open("rb") as source:
            source.seek(part * dataset.part_bytes)
            content = source.read(dataset.part_bytes)
        yield from sender.send(file, part, content)
    report(len(missing), len(missing))
    path = f"/datasets/{dataset.dataset_id}/complete"
    completed: Dataset = yield from _repeat(Call("POST", path, Dataset, timeout=COMPLETION_SECONDS))
    return completed


def upload(
    files: LocalDataset, *, name: str, tags: Sequence[str] = (), report: Report = lambda sent, total: None
) -> Operation[Dataset]:
    """Upload files as a dataset.

    Files that the service has already are not sent again.
    """
    dataset = yield from begin(files, name=name, tags=tags)
    return (yield from send_missing(dataset, files, report))


class _PartSender:
    """Sends the parts of one upload."""

    def __init__(self, dataset: Dataset, missing: Sequence[Part]):
        """Prepare to send parts.

        missing: pairs of a file and a part, in the order in which they will be sent.
        """
        self._folder = f"/datasets/{dataset.dataset_id}"
        self._missing = missing
        # A single part is sent as quickly without a link.
        self._uses_links = dataset.part_links and len(missing) > 1
        self._links: dict[Part, PartLink] = {}

    def send(self, file: int, part: int, content: bytes) -> Operation[None]:
        """Send one part, again while its receiver is unreachable.

        If links do not work, this and all later parts go to the service, and a warning is logged. Raises
        UploadInterrupted, Refused.
        """
        if self._uses_links:
            try:
                yield from self._send_linked((file, part), content)
                return
            except (LinkRefused, StorageUnreachable, Refused) as error:
                if isinstance(error, Refused) and error.status < 500:
                    raise
                self._uses_links = False
                reason = error.message if isinstance(error, Refused) else str(error)
                log.warning("the parts go through the service, not to the storage itself: %s", reason)
        params = {"file": file, "part": part}
        yield from _repeat(Call("PUT", f"{self._folder}/parts", PartStored, params=params, content=content))

    def _send_linked(self, part: Part, content: bytes) -> Operation[None]:
        """Send one part to the storage.

        A link that is refused, as an expired one is, is replaced once. Raises LinkRefused, StorageUnreachable, Refused,
        UploadInterrupted.
        """
        # The storage compares the content with it: https://cloud.google.com/storage/docs/xml-api/reference-headers
        md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        for is_new in (False, True):
            link = yield from self._link(part)
            if link is None:  # somebody else has completed the dataset
                return
            put = LinkedPut(link.url, {**link.headers, "Content-MD5": md5}, content)
            try:
                yield from _repeat(put)
                return
            except UploadInterrupted as error:
                raise StorageUnreachable(str(error)) from error
            except LinkRefused:
                self._links.clear()
                if is_new:
                    raise

    def _link(self, part: Part) -> Operation[PartLink | None]:
        """Return the link of a part, or None if the dataset is complete."""
        if part not in self._links:
            begin = self._missing.index(part)
            next_parts = self._missing[begin : begin + LINKS_PER_CALL]
            body = {"parts": [{"file": file, "part": number} for file, number in next_parts]}
            answer: PartLinks = yield from _repeat(Call("POST", f"{self._folder}/part-links", PartLinks, json=body))
            self._links = {(link.file, link.part): link for link in answer.links}
        return self._links.get(part)


def _repeat(step: Call[Any] | LinkedPut) -> Operation[Any]:
    """Send a call, again while its receiver is unreachable; return the answer.

    Raises UploadInterrupted after ATTEMPTS.
    """
    for attempt in range(ATTEMPTS):
        try:
            return (yield step)
        except Unreachable as error:
            if attempt + 1 == ATTEMPTS:
                raise UploadInterrupted(str(error)) from error
            yield Pause(FIRST_PAUSE_SECONDS * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def suffix_of(path: Path) -> str:
    """Return the ending of a file with rows.

    Raises BadUse if it has none of the known ones.
    """
    kind = kind_of(path.name)
    if not path.is_file():
        raise BadUse(f"there is no file {path}")
    if kind is None:
        endings = ", ".join(dict.fromkeys(f".{kind.ending}" for kind in KINDS))
        endings = f"the name ends in none of {endings}, which .gz or .zst may follow"
        raise BadUse(f"{path} holds no rows: {endings}; save a spreadsheet as CSV UTF-8")
    return kind.suffix


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
