"""Upload of files as a dataset.

It is sent in parts, and goes on where it was interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gemtune.client.calls import Call, Operation, Pause
from gemtune.client.errors import BadUse, Refused, Unreachable, UploadInterrupted
from gemtune.datasets.files.kinds import KINDS, kind_of
from gemtune.datasets.uploads.record import DatasetFile, dataset_id_of
from gemtune.handlers.answers import Dataset, PartStored

# Attempts for a part while the service is unreachable, and the seconds before the second one, doubled each time.
ATTEMPTS, FIRST_PAUSE_SECONDS = 6, 1.0

Report = Callable[[int, int], None]


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
    service is unreachable; raises Unreachable after ATTEMPTS.
    """
    if dataset.status == "ready":
        return dataset
    paths = [files.files[file.path] for file in dataset.files]
    missing = [(file, part) for file, parts in dataset.missing_parts.items() for part in parts]
    for sent, (file, part) in enumerate(missing):
        report(sent, len(missing))
        with paths[file].open("rb") as source:
            source.seek(part * dataset.part_bytes)
            content = source.read(dataset.part_bytes)
        call = Call(
            "PUT",
            f"/datasets/{dataset.dataset_id}/parts",
            PartStored,
            params={"file": file, "part": part},
            content=content,
        )
        yield from _send(call)
    report(len(missing), len(missing))
    completed: Dataset = yield Call("POST", f"/datasets/{dataset.dataset_id}/complete", Dataset)
    return completed


def upload(
    files: LocalDataset, *, name: str, tags: Sequence[str] = (), report: Report = lambda sent, total: None
) -> Operation[Dataset]:
    """Upload files as a dataset.

    Files that the service has already are not sent again.
    """
    dataset = yield from begin(files, name=name, tags=tags)
    return (yield from send_missing(dataset, files, report))


def _send(call: Call[PartStored]) -> Operation[None]:
    """Send one part, again while the service is unreachable."""
    for attempt in range(ATTEMPTS):
        try:
            yield call
            return
        except Unreachable as error:
            if attempt + 1 == ATTEMPTS:
                raise UploadInterrupted(str(error)) from error
            yield Pause(FIRST_PAUSE_SECONDS * 2**attempt)


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
