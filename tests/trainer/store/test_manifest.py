"""Folders in the object store are complete or do not count."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gemtune.embedded.folder_objects import FolderObjects
from trainer.store import manifest
from trainer.store.manifest import IncompleteFolder

CONTENT = {"a.bin": b"\x00" * 1000, "deep/er/b.txt": b"text", "empty": b""}


@pytest.fixture
def objects(tmp_path: Path) -> FolderObjects:
    return FolderObjects(tmp_path / "export", "export")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in CONTENT.items():
        path = tmp_path / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "local"


def test_a_published_folder_is_fetched_with_its_checksums(objects: FolderObjects, folder: Path, tmp_path: Path) -> None:
    artifacts = manifest.publish(objects, folder, "models/x")
    assert {a.name: (a.bytes, a.sha256) for a in artifacts} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in CONTENT.items()
    }
    assert all(Path(artifact.uri).read_bytes() == CONTENT[artifact.name] for artifact in artifacts)
    fetched = manifest.fetch(objects, "models/x", tmp_path / "into")
    assert {name: (fetched / name).read_bytes() for name in CONTENT} == CONTENT


def test_the_manifest_is_written_last(objects: FolderObjects, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: list[str] = []
    upload = objects.upload

    def failing(path: Path, name: str) -> None:
        if len(uploaded) == 2:
            raise OSError("the disk is full")
        uploaded.append(name)
        upload(path, name)

    monkeypatch.setattr(objects, "upload", failing)
    with pytest.raises(OSError, match="full"):
        manifest.publish(objects, folder, "models/x")
    assert uploaded
    assert manifest.read_whole(objects, "models/x") is None


@pytest.mark.parametrize("name", CONTENT)
def test_a_folder_with_a_missing_file_is_not_complete(
    objects: FolderObjects, folder: Path, tmp_path: Path, name: str
) -> None:
    manifest.publish(objects, folder, "models/x")
    objects.delete(f"models/x/{name}")
    assert manifest.read_whole(objects, "models/x") is None
    with pytest.raises(IncompleteFolder):
        manifest.fetch(objects, "models/x", tmp_path / "into")


def test_a_changed_size_is_noticed_at_once_and_changed_content_when_fetched(
    objects: FolderObjects, folder: Path, tmp_path: Path
) -> None:
    manifest.publish(objects, folder, "models/x")
    objects.write("models/x/a.bin", b"\x01" * 1000)
    assert manifest.read_whole(objects, "models/x") is not None
    with pytest.raises(IncompleteFolder, match=r"a\.bin"):
        manifest.fetch(objects, "models/x", tmp_path / "into")
    objects.write("models/x/a.bin", b"\x00" * 999)
    assert manifest.read_whole(objects, "models/x") is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"files": 3}', b'{"files": [3]}', b'{"files": [{"name": "a"}]}']
)
def test_a_folder_with_a_broken_manifest_is_not_complete(objects: FolderObjects, content: bytes) -> None:
    objects.write("models/x/manifest.json", content)
    assert manifest.read_whole(objects, "models/x") is None


def test_a_manifest_among_the_files_is_replaced_by_ours(objects: FolderObjects, folder: Path, tmp_path: Path) -> None:
    (folder / "manifest.json").write_text("{}")
    manifest.publish(objects, folder, "models/x")
    assert manifest.fetch(objects, "models/x", tmp_path / "into")
    names = {entry["name"] for entry in json.loads(objects.read("models/x/manifest.json"))["files"]}
    assert names == set(CONTENT)
