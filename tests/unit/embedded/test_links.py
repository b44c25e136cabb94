"""Symbolic links and pipes in a folder of objects: all ways to look at one agree on them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gemtune.embedded.folder_objects import FolderObjects
from gemtune.errors import ObjectNotFound, UnsafeName


@pytest.fixture
def objects(tmp_path: Path) -> FolderObjects:
    """A bucket that is itself reached through a link, with `a/one`, `a/b/two` and `c/three`."""
    (tmp_path / "real").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "real")
    made = FolderObjects(tmp_path / "home" / "data", "data")
    for name in ("a/one", "a/b/two", "c/three"):
        made.write(name, name.encode())
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return made


def names(objects: FolderObjects, prefix: str) -> list[str]:
    return [stat.name for stat in objects.list(prefix)]


def link(objects: FolderObjects, name: str, target: Path | str) -> None:
    (objects.root / name).symlink_to(target)


def looks(objects: FolderObjects, name: str, tmp_path: Path) -> list[Callable[[], object]]:
    """Every way to look at one object; a listing gives its stat too."""
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
        ("a/eval", "one", "a/eval", b"a/one"),  # beside it
        ("c/eval", "../a/b/two", "c/eval", b"a/b/two"),
        ("d", "a/b", "d/two", b"a/b/two"),  # a folder
        ("c/d", "../a", "c/d/b/two", b"a/b/two"),  # a folder in a folder
    ],
)
def test_a_link_that_stays_in_its_bucket_is_followed_by_all(
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


def test_a_link_by_its_absolute_path_is_followed_too(objects: FolderObjects) -> None:
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
def test_a_link_that_leads_elsewhere_is_refused_by_all_and_by_its_name(
    objects: FolderObjects, tmp_path: Path, place: str, target: str, name: str, where: str
) -> None:
    link(objects, place, target.format(outside=tmp_path / "outside"))
    ways = [*looks(objects, name, tmp_path), lambda: list(objects.list("a/")), lambda: names(objects, "")]
    for way in [*ways, lambda: objects.fetch_folder("a", tmp_path)]:
        with pytest.raises(UnsafeName, match=f"the link '{place}' in data leads {where}") as refused:
            way()
        assert refused.value.hint == "put the files themselves there"
    assert names(objects, "c/") == ["c/three"]


def test_links_that_lead_to_each_other_end(objects: FolderObjects) -> None:
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


def test_a_pipe_is_no_object_and_keeps_nobody_waiting(objects: FolderObjects, tmp_path: Path) -> None:
    os.mkfifo(objects.root / "a" / "pipe")
    assert objects.stat("a/pipe") is None
    assert objects.generation("a/pipe") is None
    assert names(objects, "a/") == ["a/b/two", "a/one"]
    for way in (lambda: objects.read("a/pipe"), lambda: objects.fetch("a/pipe", tmp_path)):
        with pytest.raises(ObjectNotFound):
            way()


@pytest.mark.parametrize("prefix", ["d", "d/", "d/x"])
def test_deleting_removes_a_link_and_nothing_that_it_leads_to(
    objects: FolderObjects, tmp_path: Path, prefix: str
) -> None:
    (objects.root / "d").mkdir()
    link(objects, "d/x", "../a")
    link(objects, "d/x2", tmp_path / "outside")
    objects.delete_prefix(prefix)
    assert not any((objects.root / "d").glob("*"))
    assert names(objects, "") == ["a/b/two", "a/one", "c/three"]
    assert (tmp_path / "outside" / "secret").exists()


def test_a_link_in_place_of_the_folder_itself_is_removed_alone(objects: FolderObjects) -> None:
    link(objects, "d", "a")
    objects.delete_prefix("d/")
    assert names(objects, "") == ["a/b/two", "a/one", "c/three"]
    link(objects, "a/eval", "one")
    objects.delete("a/eval")
    assert names(objects, "a/") == ["a/b/two", "a/one"]


def test_writing_replaces_a_link_and_not_what_it_leads_to(objects: FolderObjects) -> None:
    link(objects, "a/eval", "one")
    objects.write("a/eval", b"new")
    assert (objects.read("a/eval"), objects.read("a/one")) == (b"new", b"a/one")
