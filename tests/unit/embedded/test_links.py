"""Symbolic links and pipes in a folder of objects, for every way to read one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gemtune.embedded.folder_objects import FolderObjects
from gemtune.errors import ObjectNotFound, UnsafeName


@pytest.fixture
def objects(tmp_path: Path) -> FolderObjects:
    """Return a bucket that holds `a/one`, `a/b/two` and `c/three`.

    Its own folder is reached through a link.
    """
    (tmp_path / "real").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "real")
    bucket = FolderObjects(tmp_path / "home" / "data", "data")
    for name in ("a/one", "a/b/two", "c/three"):
        bucket.write(name, name.encode())
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return bucket


def names(objects: FolderObjects, prefix: str) -> list[str]:
    return [stat.name for stat in objects.list(prefix)]


def link(objects: FolderObjects, name: str, target: Path | str) -> None:
    (objects.root / name).symlink_to(target)


def reads(objects: FolderObjects, name: str, tmp_path: Path) -> list[Callable[[], object]]:
    """Return every way to read one object; a listing includes its stat too."""
    return [
        lambda: objects.stat(name),
        lambda: objects.read(name),
        lambda: objects.generation(name),
        lambda: objects.fetch(name, tmp_path),
        lambda: objects.uri(name),
        lambda: objects.link(name),
        lambda: list(objects.list(name)),
    ]


@pytest.mark.parametrize(
    ("place", "target", "name", "content"),
    [
        ("a/eval", "one", "a/eval", b"a/one"),  # in the same folder
        ("c/eval", "../a/b/two", "c/eval", b"a/b/two"),
        ("d", "a/b", "d/two", b"a/b/two"),  # a folder
        ("c/d", "../a", "c/d/b/two", b"a/b/two"),  # a folder in a folder
    ],
)
def test_every_read_follows_a_link_within_its_bucket(
    objects: FolderObjects, tmp_path: Path, place: str, target: str, name: str, content: bytes
) -> None:
    link(objects, place, target)
    stat = objects.stat(name)
    assert stat is not None
    assert [stat] == list(objects.list(name))
    assert name in names(objects, "")
    assert name in names(objects, name.rpartition("/")[0] + "/")
    assert objects.read(name) == content
    assert objects.generation(name) is not None
    assert objects.fetch(name, tmp_path).read_bytes() == content
    assert (objects.fetch_folder(name.rpartition("/")[0], tmp_path) / name.rpartition("/")[2]).read_bytes() == content


def test_a_link_with_an_absolute_target_is_followed(objects: FolderObjects) -> None:
    link(objects, "a/eval", objects.root / "c" / "three")
    assert objects.read("a/eval") == b"c/three"
    assert "a/eval" in names(objects, "a/")


@pytest.mark.parametrize(
    ("place", "target", "name", "where"),
    [
        ("a/eval", "{outside}/secret", "a/eval", "out of its bucket"),
        ("a/eval", "{outside}/none", "a/eval", "out of its bucket"),
        ("a/eval", "../../../outside/secret", "a/eval", "out of its bucket"),
        ("a/d", "{outside}", "a/d/secret", "out of its bucket"),
        ("a/d", "..", "a/d/c/three", "in a circle"),
        ("a/d", ".", "a/d/one", "in a circle"),
        ("a/b/d", "../../a", "a/b/d/one", "in a circle"),
    ],
)
def test_every_read_refuses_a_link_out_of_its_bucket_and_names_it(
    objects: FolderObjects, tmp_path: Path, place: str, target: str, name: str, where: str
) -> None:
    link(objects, place, target.format(outside=tmp_path / "outside"))
    ways = [*reads(objects, name, tmp_path), lambda: list(objects.list("a/")), lambda: names(objects, "")]
    for way in [*ways, lambda: objects.fetch_folder("a", tmp_path)]:
        with pytest.raises(UnsafeName, match=f"the link '{place}' in data leads {where}") as refused:
            way()
        assert refused.value.hint == "put the files themselves there"
    assert names(objects, "c/") == ["c/three"]


def test_a_circle_of_links_is_refused(objects: FolderObjects) -> None:
    link(objects, "a/to_c", "../c")
    link(objects, "c/to_a", "../a")
    assert objects.read("a/to_c/three") == b"c/three"
    for way in (lambda: objects.stat("a/to_c/to_a/one"), lambda: names(objects, "a/")):
        with pytest.raises(UnsafeName, match="in a circle"):
            way()


@pytest.mark.parametrize("target", ["none", "loop"])
def test_a_link_to_nothing_is_no_object(objects: FolderObjects, tmp_path: Path, target: str) -> None:
    link(objects, "a/loop", target)
    assert objects.stat("a/loop") is None
    assert objects.generation("a/loop") is None
    assert names(objects, "a/") == ["a/b/two", "a/one"]
    for way in (lambda: objects.read("a/loop"), lambda: objects.fetch("a/loop", tmp_path)):
        with pytest.raises(ObjectNotFound):
            way()


def test_a_pipe_is_no_object_and_blocks_no_read(objects: FolderObjects, tmp_path: Path) -> None:
    os.mkfifo(objects.root / "a" / "pipe")
    assert objects.stat("a/pipe") is None
    assert objects.generation("a/pipe") is None
    assert names(objects, "a/") == ["a/b/two", "a/one"]
    for way in (lambda: objects.read("a/pipe"), lambda: objects.fetch("a/pipe", tmp_path)):
        with pytest.raises(ObjectNotFound):
            way()


@pytest.mark.parametrize("prefix", ["d", "d/", "d/x"])
def test_deleting_removes_a_link_and_not_its_target(objects: FolderObjects, tmp_path: Path, prefix: str) -> None:
    (objects.root / "d").mkdir()
    link(objects, "d/x", "../a")
    link(objects, "d/x2", tmp_path / "outside")
    objects.delete_prefix(prefix)
    assert not any((objects.root / "d").glob("*"))
    assert names(objects, "") == ["a/b/two", "a/one", "c/three"]
    assert (tmp_path / "outside" / "secret").exists()


def test_deleting_a_folder_that_is_a_link_removes_the_link_only(objects: FolderObjects) -> None:
    link(objects, "d", "a")
    objects.delete_prefix("d/")
    assert names(objects, "") == ["a/b/two", "a/one", "c/three"]
    link(objects, "a/eval", "one")
    objects.delete("a/eval")
    assert names(objects, "a/") == ["a/b/two", "a/one"]


def test_writing_replaces_a_link_and_not_its_target(objects: FolderObjects) -> None:
    link(objects, "a/eval", "one")
    objects.write("a/eval", b"new")
    assert (objects.read("a/eval"), objects.read("a/one")) == (b"new", b"a/one")
