"""Folders in the objects store that are whole or not there: a manifest, written last, says what belongs to one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gemtune.errors import GemtuneError, ObjectNotFound
from gemtune.jobs.record import Artifact
from gemtune.ports import Objects
from gemtune.untrusted import MAX_MODEL_FILE_BYTES, Unreadable, read_json

NAME = "manifest.json"


class IncompleteFolder(GemtuneError):
    """A folder without its manifest, or with other files than it says."""

    code = "not_whole"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a whole folder, by their names in it."""

    artifacts: Sequence[Artifact]


def publish(objects: Objects, folder: Path, prefix: str) -> list[Artifact]:
    """Upload every file of a folder to `prefix/…`, and then the manifest that makes it whole."""
    artifacts = describe(objects, folder, prefix)
    for artifact in artifacts:
        objects.upload(folder / artifact.name, f"{prefix}/{artifact.name}")
    seal(objects, prefix, artifacts)
    return artifacts


def describe(objects: Objects, folder: Path, prefix: str) -> list[Artifact]:
    """What `publish` will say of the files of a folder."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return [_artifact(objects, path, f"{prefix}/{name}", name) for name, path in files.items() if name != NAME]


def add(objects: Objects, path: Path, prefix: str, name: str) -> Artifact:
    """Upload one file of a folder that is not whole yet, and may be too large to be on this machine at once."""
    objects.upload(path, f"{prefix}/{name}")
    return _artifact(objects, path, f"{prefix}/{name}", name)


def _artifact(objects: Objects, path: Path, place: str, name: str) -> Artifact:
    return Artifact(name=name, uri=objects.uri(place), bytes=path.stat().st_size, sha256=sha256(path))


def seal(objects: Objects, prefix: str, artifacts: Sequence[Artifact]) -> None:
    """Write the manifest: from now on the folder is whole."""
    listed = [artifact.model_dump() for artifact in artifacts]
    objects.write(f"{prefix}/{NAME}", json.dumps({"files": listed}, indent=1).encode())


def read_whole(objects: Objects, prefix: str) -> Manifest | None:
    """The manifest of a folder, if it is there and every file has the size it says."""
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


def fetch(objects: Objects, prefix: str, into: Path) -> Path:
    """A local, read-only copy of a whole folder (or the folder itself), every file checked against its SHA-256.

    Raises IncompleteFolder.
    """
    found = read_whole(objects, prefix)
    if found is None:
        raise IncompleteFolder(f"{prefix} is not whole")
    folder = objects.fetch_folder(prefix, into)
    for artifact in found.artifacts:
        if sha256(folder / artifact.name) != artifact.sha256:
            raise IncompleteFolder(f"{prefix}/{artifact.name} is not what its manifest says")
    return folder


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
