"""Objects: atomic writes, single creation, and no name outside the bucket."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from gemtune.errors import ObjectExists, ObjectNotFound, UnsafeName
from gemtune.ports import Objects
from gemtune.untrusted import Unreadable
from tests.fakes import FakeClock, upload_folder


def test_an_object_is_read_as_it_was_written(objects: Objects) -> None:
    objects.write("a/b.json", b"one")
    objects.write("a/b.json", b"two")
    assert objects.read("a/b.json") == b"two"
    stat = objects.stat("a/b.json")
    assert stat is not None
    assert (stat.name, stat.bytes) == ("a/b.json", 3)
    assert objects.stat("a") is None
    for name in ("a", "a/c", "a/b.json/c"):
        with pytest.raises(ObjectNotFound):
            objects.read(name)


def test_an_object_beyond_the_size_limit_is_not_read(objects: Objects) -> None:
    objects.write("a/b.json", b"x" * 100_000)
    assert len(objects.read("a/b.json", max_bytes=100_000)) == 100_000
    with pytest.raises(Unreadable, match=r"a/b\.json has more than 99999 bytes") as caught:
        objects.read("a/b.json", max_bytes=99_999)
    assert caught.value.code == "too_large"


def test_a_range_ends_at_the_end_of_the_object(objects: Objects) -> None:
    objects.write("a/b", b"0123456789")
    assert objects.read_range("a/b", 0, 4) == b"0123"
    assert objects.read_range("a/b", 6, 100) == b"6789"
    assert objects.read_range("a/b", 10, 5) == b""
    objects.write("empty", b"")
    assert objects.read_range("empty", 0, 5) == b""
    with pytest.raises(ObjectNotFound):
        objects.read_range("a/c", 0, 4)
    with pytest.raises(UnsafeName):
        objects.read_range("../a", 0, 4)


def test_of_thirty_creates_one_wins_and_its_object_is_whole(objects: Objects) -> None:
    def attempt(number: int) -> int | None:
        try:
            objects.create("once", bytes([number]) * 100_000)
        except ObjectExists:
            return None
        return number

    with ThreadPoolExecutor(30) as pool:
        winners = [number for number in pool.map(attempt, range(30)) if number is not None]
    assert len(winners) == 1
    assert objects.read("once") == bytes(winners) * 100_000


def test_objects_are_listed_by_prefix_in_order(objects: Objects) -> None:
    for name in ("jobs/a/2", "jobs/a/1", "jobs/ab/1", "jobs/b/ä ö", "other"):
        objects.write(name, b"")
    assert [stat.name for stat in objects.list("jobs/a/")] == ["jobs/a/1", "jobs/a/2"]
    assert [stat.name for stat in objects.list("jobs/a")] == ["jobs/a/1", "jobs/a/2", "jobs/ab/1"]
    assert [stat.name for stat in objects.list("")][-1] == "other"
    assert [stat.name for stat in objects.list("jobs/b/")] == ["jobs/b/ä ö"]
    assert list(objects.list("nothing/")) == []


def test_marking_objects_as_used_changes_nothing_in_them(objects: Objects) -> None:
    objects.write("models/a/config.json", b"{}")
    objects.write("models/b/config.json", b"{}")
    for at in (datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)):  # the clock may be set back
        objects.mark_used("models/a", at)
    assert objects.read("models/a/config.json") == b"{}"
    assert len(list(objects.list("models/"))) == 2


def test_deleting_a_missing_object_is_no_error(objects: Objects) -> None:
    objects.write("a/b/c", b"")
    objects.write("a/d", b"")
    objects.delete("a/b/c")
    objects.delete("a/b/c")
    objects.delete_prefix("nothing/")
    assert [stat.name for stat in objects.list("")] == ["a/d"]
    objects.delete_prefix("a/")
    assert list(objects.list("")) == []


UNSAFE = [
    "",
    "/",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a//b",
    "a/./b",
    "a/",
    "a\x00b",
    "a\nb",
    "x" * 2000,
    ".unfinished/a",
]


@pytest.mark.parametrize("name", UNSAFE)
def test_a_name_that_leaves_its_bucket_is_refused(objects: Objects, name: str) -> None:
    for use in (objects.read, objects.delete, objects.stat, lambda n: objects.write(n, b""), objects.generation):
        with pytest.raises(UnsafeName):
            use(name)


def test_folders_are_uploaded_and_fetched_completely(objects: Objects, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_bytes(b"a" * 5_000_000)
    (folder / "deep" / "b").write_bytes(b"b")
    upload_folder(objects, folder, "jobs/x")
    fetched = objects.fetch_folder("jobs/x", tmp_path / "into")
    assert (fetched / "a").stat().st_size == 5_000_000
    assert (fetched / "deep" / "b").read_bytes() == b"b"
    assert objects.fetch("jobs/x/deep/b", tmp_path / "into").read_bytes() == b"b"
    with pytest.raises(ObjectNotFound):
        objects.fetch_folder("jobs/y", tmp_path / "into")
    with pytest.raises(ObjectNotFound):
        objects.fetch("jobs/x/c", tmp_path / "into")


def test_every_write_changes_the_generation(objects: Objects) -> None:
    assert objects.generation("a") is None
    objects.write("a", b"1")
    first = objects.generation("a")
    assert objects.generation("a") == first
    objects.write("a", b"2")
    assert objects.generation("a") != first


def test_a_link_reads_the_object_without_credentials(objects: Objects) -> None:
    objects.write("jobs/x/ä ö+%2F#?.bin", b"content")
    link = objects.link("jobs/x/ä ö+%2F#?.bin")
    if link.path is not None:
        assert link.url is None
        assert Path(link.path).read_bytes() == b"content"
    else:
        assert link.url is not None
        assert httpx2.get(link.url, trust_env=False).content == b"content"
    with pytest.raises(UnsafeName):
        objects.link("../x")


def test_only_unfinished_files_of_dead_writers_are_removed(objects: Objects, clock: FakeClock) -> None:
    objects.write("kept", b"")
    objects.remove_unfinished(clock.now() + timedelta(days=365))
    assert [stat.name for stat in objects.list("")] == ["kept"]


def test_equal_content_has_the_same_digest_and_other_content_another_one(objects: Objects) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        objects.write(name, content)
    digests = {name: objects.digest(name) for name in "abc"}
    assert digests["a"] == digests["b"] != digests["c"]
    algorithm, _, digest = digests["a"].partition(":")
    expected = {
        "sha256": hashlib.sha256(b"1").hexdigest(),
        "crc32c": "kPWZ4w==",  # of https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4's polynomial, big-endian
    }
    assert (algorithm, digest) == (objects.digest_algorithm, expected[algorithm])
    with pytest.raises(ObjectNotFound):
        objects.digest("missing")


def test_folders_are_those_with_objects_in_them(objects: Objects) -> None:
    for name in ("sets/b/x", "sets/a/x/y", "sets/a/z", "sets/file", "other/c/x"):
        objects.write(name, b"")
    assert list(objects.folders("sets/")) == ["a", "b"]
    assert list(objects.folders("nothing/")) == []


def test_objects_and_folders_behind_a_name_are_listed_in_the_order_of_objects(objects: Objects) -> None:
    names = ["sets/a-b/x", "sets/a.json", "sets/a/x", "sets/a/y/z", "sets/ab/x", "sets/b", "sets/b.c/x"]
    for name in names:
        objects.write(name, b"")
    for number in range(len(names)):
        assert [stat.name for stat in objects.list("sets/", after=names[number])] == names[number + 1 :]
    assert [stat.name for stat in objects.list("sets/a", after="sets/a/xx")] == ["sets/a/y/z", "sets/ab/x"]
    folders = ["a-b", "a", "ab", "b.c"]
    assert list(objects.folders("sets/")) == folders
    for number in range(len(folders)):
        assert list(objects.folders("sets/", after=folders[number])) == folders[number + 1 :]
    assert list(objects.folders("sets/", after="aa")) == ["ab", "b.c"]


@pytest.mark.parametrize("count", [1, 3, 70])
def test_objects_are_joined_in_order(objects: Objects, count: int) -> None:
    names = [f"parts/{number}" for number in range(count)]
    for number, name in enumerate(names):
        objects.write(name, f"{number},".encode())
    objects.write("whole", b"older")
    objects.join(names, "whole")
    assert objects.read("whole").decode() == "".join(f"{number}," for number in range(count))
    assert len(list(objects.list("parts/"))) == count


@pytest.mark.parametrize("count", [1, 70])
def test_objects_are_joined_if_their_contents_have_a_hash(
    objects: Objects, count: int, composing_needs_all_parts: None
) -> None:
    names = [f"parts/{number}" for number in range(count)]
    for number, name in enumerate(names):
        objects.write(name, f"{number},".encode())
    content = "".join(f"{number}," for number in range(count)).encode()
    assert not objects.join_checked(names, "whole", hashlib.sha256(b"other").hexdigest())
    assert objects.stat("whole") is None
    assert objects.join_checked(names, "whole", hashlib.sha256(content).hexdigest())
    assert objects.read("whole") == content
    with pytest.raises(ObjectNotFound):
        objects.join_checked([*names, "parts/missing"], "more", hashlib.sha256(content).hexdigest())
    assert sorted(stat.name for stat in objects.list("")) == sorted([*names, "whole"])
