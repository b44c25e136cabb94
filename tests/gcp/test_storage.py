"""Cloud Storage: large folders, damaged downloads and repeated creates."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud import storage

from gemtune.errors import ObjectExists, ObjectNotFound, StepError
from gemtune.gcp import storage_objects
from gemtune.gcp.storage_objects import StorageObjects
from gemtune.ports import Buckets, Objects
from tests import tiny_gemma
from tests.emulators.gateways import Gateways
from tests.emulators.google import Emulators
from tests.emulators.world import GcpWorld
from tests.fakes import upload_folder
from trainer.base_model import location

pytestmark = pytest.mark.emulators


@pytest.fixture
def objects(emulators: Emulators, tmp_path: Path) -> Iterator[Objects]:
    world = GcpWorld(tmp_path / "home", emulators)
    yield world.services.buckets.export
    world.stop()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gemma.build(tmp_path_factory.mktemp("models") / "tiny")


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


def test_a_mounted_bucket_is_read_in_place_and_nothing_is_copied(
    objects: Objects, emulators: Emulators, tmp_path: Path
) -> None:
    mount = emulators.mounts / objects.bucket
    mounted = StorageObjects("project", objects.bucket, mount)
    objects.write("models/tiny/config.json", b"{}")
    objects.write("models/tiny/model.safetensors", b"weights")
    into = tmp_path / "into"
    assert mounted.fetch_folder("models/tiny", into, in_place=True) == mount / "models" / "tiny"
    weights = mounted.fetch("models/tiny/model.safetensors", into, in_place=True)
    assert weights.read_bytes() == b"weights"
    assert weights.is_relative_to(mount)
    assert not into.exists()
    assert mounted.fetch_folder("models/tiny", into).is_relative_to(into)  # small files that are read often
    with pytest.raises(ObjectNotFound):
        mounted.fetch_folder("models/other", into, in_place=True)


@pytest.mark.parametrize(("shown", "problem"), [(None, "is missing"), (b"w", "has 1 bytes instead of 7")])
def test_a_mount_that_shows_other_files_than_the_bucket_is_not_read(
    objects: Objects, tmp_path: Path, shown: bytes | None, problem: str
) -> None:
    mount = tmp_path / "mount"
    mounted = StorageObjects("project", objects.bucket, mount)
    objects.write("models/tiny/model.safetensors", b"weights")
    if shown is not None:
        (mount / "models" / "tiny").mkdir(parents=True)
        (mount / "models" / "tiny" / "model.safetensors").write_bytes(shown)
    with pytest.raises(OSError, match=problem):
        mounted.fetch_folder("models/tiny", tmp_path / "into", in_place=True)


def test_weights_of_a_mounted_bucket_need_no_local_disk(
    objects: Objects, emulators: Emulators, tmp_path: Path, tiny: Path
) -> None:
    """Read a base model in place, and notice that it was replaced meanwhile."""
    mounted = StorageObjects("project", objects.bucket, emulators.mounts / objects.bucket)
    buckets = Buckets(mounted, mounted, mounted, mounted)
    upload_folder(objects, tiny, "models/tiny")
    provided = {"kind": "bucket", "id": "gs://…", "place": f"{objects.bucket}/models/tiny"}
    work = tmp_path / "work"
    work.mkdir()
    recorded = location.identify(buckets, provided, tiny)
    folder = location.locate(buckets, provided, work, recorded)
    assert {path.name for path in folder.iterdir()} == {path.name for path in tiny.iterdir()}
    assert list(work.iterdir()) == []
    location.check_unchanged(buckets, provided, folder, recorded)
    objects.write("models/tiny/model.safetensors", b"other weights")
    with pytest.raises(StepError) as caught:
        location.check_unchanged(buckets, provided, folder, recorded)
    assert caught.value.code == "base_changed"


def test_only_objects_are_asked_for(objects: Objects, emulators: Emulators, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roles on objects permit no more, which newer clients ask for.

    They ask for the bucket, in the background.
    """
    gateways = Gateways({}, {"/": emulators.storage})
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{gateways.open('api')[1]}")
        monkeypatch.delenv("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", raising=False)
        storage_objects._client.cache_clear()
        bucket = objects.uri("x").removeprefix("gs://").partition("/")[0]
        recorded = StorageObjects("a-project", bucket)
        recorded.write("jobs/a", b"content")
        assert (recorded.read("jobs/a"), [stat.name for stat in recorded.list("jobs/")]) == (b"content", ["jobs/a"])
        for thread in threading.enumerate():
            if "_fetch_background" in thread.name:
                thread.join()
        assert len(gateways.calls) == 3
        assert {call.path for call in gateways.calls if "/o" not in call.path} == set()
    finally:
        storage_objects._client.cache_clear()
        gateways.stop()
