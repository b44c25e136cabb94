"""Manifests: they make a folder of the objects store complete.

The manifest lists a folder's files and is written last, so a folder without it counts as missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gemtune.errors import GemtuneError, ObjectNotFound
from gemtune.jobs.parts.results import Artifact
from gemtune.ports import Objects
from gemtune.training_files.checkpoint_names import MANIFEST
from gemtune.untrusted import MAX_MODEL_FILE_BYTES, Unreadable, read_json

NAME = MANIFEST


class IncompleteFolder(GemtuneError):
    """Raised when a folder has no manifest, or its files do not match it."""

    code = "not_whole"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Files of a complete folder, named relative to it."""

    artifacts: Sequence[Artifact]


NONE: Mapping[str, Artifact] = {}


def publish(objects: Objects, folder: Path, prefix: str, uploaded: Mapping[str, Artifact] = NONE) -> list[Artifact]:
    """Upload every file of a folder to `prefix/…`, and then its manifest.

    uploaded: those of its files that are there already, by name.
    """
    artifacts = describe(objects, folder, prefix, uploaded)
    for artifact in artifacts:
        if artifact.name not in uploaded:
            objects.upload(folder / artifact.name, f"{prefix}/{artifact.name}")
    seal(objects, prefix, artifacts)
    return artifacts


def describe(objects: Objects, folder: Path, prefix: str, uploaded: Mapping[str, Artifact] = NONE) -> list[Artifact]:
    """Return the artifacts that `publish` will list for a folder."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return [
        uploaded.get(name) or _artifact(objects, path, f"{prefix}/{name}", name)
        for name, path in files.items()
        if name != NAME
    ]


def add(objects: Objects, path: Path, prefix: str, name: str) -> Artifact:
    """Upload one file of a folder, which stays incomplete until `seal`.

    The caller never needs the whole folder on this machine's disk.
    """
    objects.upload(path, f"{prefix}/{name}")
    return _artifact(objects, path, f"{prefix}/{name}", name)


def _artifact(objects: Objects, path: Path, target: str, name: str) -> Artifact:
    return Artifact(name=name, uri=objects.uri(target), bytes=path.stat().st_size, sha256=sha256(path))


def seal(objects: Objects, prefix: str, artifacts: Sequence[Artifact]) -> None:
    """Write the manifest, which makes the folder complete."""
    listed = [artifact.model_dump() for artifact in artifacts]
    objects.write(f"{prefix}/{NAME}", json.dumps({"files": listed}, indent=1).encode())


def read_whole(objects: Objects, prefix: str) -> Manifest | None:
    """Return a folder's manifest if every file exists and has its size."""
    try:
        listed = read_json(
            objects.read(f"{prefix}/{NAME}", max_bytes=MAX_MODEL_FILE_BYTES), max_bytes=MAX_MODEL_FILE_BYTES
        )["files"]
        artifacts = [Artifact.model_validate(entry) for entry in listed]
    except (ObjectNotFound, Unreadable, ValueError, KeyError, TypeError):
        return None
    stats = [objects.stat(f"{prefix}/{artifact.name}") for artifact in artifacts]
    sizes = [None if stat is None else stat.bytes for stat in stats]
    return Manifest(artifacts) if sizes == [artifact.bytes for artifact in artifacts] else None


def fetch(objects: Objects, prefix: str, into: Path, *, in_place: bool = False) -> Path:
    """Fetch a complete folder and check the SHA-256 of every file.

    Returns a local folder to read from: the copy in `into`, or the original where objects are local files. in_place:
    whether the original will do where a bucket is mounted, too; for large files. Raises IncompleteFolder.
    """
    complete = read_whole(objects, prefix)
    if complete is None:
        raise IncompleteFolder(f"{prefix} is missing or incomplete")
    folder = objects.fetch_folder(prefix, into, in_place=in_place)
    for artifact in complete.artifacts:
        if sha256(folder / artifact.name) != artifact.sha256:
            raise IncompleteFolder(f"the SHA-256 of {prefix}/{artifact.name} is not that of its manifest")
    return folder


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, reading it in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
