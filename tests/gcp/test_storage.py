"""Cloud Storage: large folders, damaged downloads and repeated creates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud import storage

from gemtune.errors import ObjectExists
from gemtune.gcp import storage_objects
from gemtune.ports import Objects
from tests.emulators.google import Emulators
from tests.emulators.world import GcpWorld
from tests.fakes import upload_folder

pytestmark = pytest.mark.emulators


@pytest.fixture
def objects(emulators: Emulators, tmp_path: Path) -> Iterator[Objects]:
    world = GcpWorld(tmp_path / "home", emulators)
    yield world.services.buckets.export
    world.stop()


def test_a_file_fetched_in_parts_is_reassembled(
    objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_objects, "PART_BYTES", 1024 * 1024)
    content = bytes(range(256)) * 4096 * 9 + b"end"  # nine parts of one megabyte, and three bytes more
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "large").write_bytes(content)
    for number in range(40):
        (folder / f"small{number}").write_bytes(bytes([number]) * 1000)
    upload_folder(objects, folder, "jobs/x")
    fetched = objects.fetch_folder("jobs/x", tmp_path / "into")
    assert (fetched / "large").read_bytes() == content
    assert sorted(path.name for path in fetched.iterdir()) == sorted(path.name for path in folder.iterdir())


def test_a_damaged_download_is_rejected(objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    objects.write("a", b"x" * 1000)
    request = requests.Session.request

    def damaging(self: Any, method: str, url: str, **kwargs: Any) -> Any:
        answer = request(self, method, url, **kwargs)
        if method == "GET" and "alt=media" in url:
            answer.headers["X-Goog-Hash"] = "crc32c=AAAAAA=="  # the checksum of other content
        return answer

    monkeypatch.setattr(requests.Session, "request", damaging)
    with pytest.raises(Exception, match=r"(?i)checksum"):
        objects.fetch("a", tmp_path)


def test_a_repeated_create_recognizes_its_own_object(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = storage.Blob.upload_from_string

    def upload_twice(self: Any, content: bytes, **kwargs: Any) -> None:
        upload(self, content, **kwargs)
        upload(self, content, **kwargs)  # what the client's own retry does

    with monkeypatch.context() as patched:
        patched.setattr(storage.Blob, "upload_from_string", upload_twice)
        objects.create("once", b"mine")
    assert objects.read("once") == b"mine"
    with pytest.raises(ObjectExists):
        objects.create("once", b"mine")


def test_folder_placeholders_of_the_console_are_not_listed(
    objects: Objects, emulators: Emulators, tmp_path: Path
) -> None:
    objects._client.bucket(objects.bucket).blob("models/tiny/").upload_from_string(b"")  # type: ignore[attr-defined]
    objects.write("models/tiny/config.json", b"{}")
    assert [stat.name for stat in objects.list("models/")] == ["models/tiny/config.json"]
    assert [path.name for path in objects.fetch_folder("models/tiny", tmp_path / "into").iterdir()] == ["config.json"]
