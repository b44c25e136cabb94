"""`gemtune artifacts` against a service that the test plays: what it shows, copies, and will not take."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.test_cli import run
from tests.unit.conftest import Played


def artifact(name: str, content: bytes, **where: str) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"name": name, "bytes": len(content), "sha256": sha256, "url": None, "path": None} | where


def listed(played: Played, *artifacts: dict[str, Any]) -> None:
    played.answers["GET", "/jobs/x/artifacts"] = (200, {"artifacts": list(artifacts)})


def test_artifacts_are_shown_with_where_they_are(played: Played) -> None:
    listed(played, artifact("a", b"1", path="/home/a"), artifact("b", b"22", url="https://b.invalid/b?sig"))
    lines = run("artifacts", "x", url=played.url).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert [line.split()[2] for line in lines] == ["/home/a", "https://b.invalid/b?sig"]


def test_files_are_copied_from_links_and_paths_and_checked(played: Played, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"from a path")
    played.answers["GET", "/b"] = (200, "from a link")  # Played answers in JSON
    listed(
        played,
        artifact("a.bin", b"from a path", path=str(tmp_path / "there")),
        artifact("deep/b.bin", b'"from a link"', url=f"{played.url}/b"),
    )
    result = run("artifacts", "x", "--download", str(tmp_path / "here"), url=played.url)
    assert result.exit_code == 0
    files = {p.relative_to(tmp_path / "here").as_posix(): p.read_bytes() for p in (tmp_path / "here").rglob("*.*")}
    assert files == {"a.bin": b"from a path", "deep/b.bin": b'"from a link"'}


def test_what_is_here_already_is_not_asked_for_again(played: Played, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b'"same"')
    listed(played, artifact("b", b'"same"', url=f"{played.url}/b"))
    assert run("artifacts", "x", "--download", str(tmp_path), url=played.url).exit_code == 0
    assert [path for _, path, _, _ in played.asked] == ["/jobs/x/artifacts"]


def test_a_file_that_is_not_the_recorded_one_is_not_kept(played: Played, tmp_path: Path) -> None:
    played.answers["GET", "/b"] = (200, "another")
    listed(played, artifact("b", b"recorded", url=f"{played.url}/b"))
    result = run("artifacts", "x", "--download", str(tmp_path), url=played.url)
    assert (result.exit_code, "SHA-256" in result.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_broke_is_asked_again_and_one_that_refuses_is_not_shown(played: Played, tmp_path: Path) -> None:
    played.answers["GET", "/b"] = [None, (200, "b")]
    listed(played, artifact("b", b'"b"', url=f"{played.url}/b"))
    assert run("artifacts", "x", "--download", str(tmp_path), url=played.url).exit_code == 0
    played.answers["GET", "/c"] = (403, "expired")
    listed(played, artifact("c", b"c", url=f"{played.url}/c?signature=fake"))
    result = run("artifacts", "x", "--download", str(tmp_path), url=played.url)
    assert (result.exit_code, result.stderr) == (1, "c: the link answers 403\n")


@pytest.mark.parametrize("name", ["../outside", "/etc/x", "a/../../b"])
def test_a_name_that_leaves_the_folder_is_not_written(played: Played, tmp_path: Path, name: str) -> None:
    (tmp_path / "there").write_bytes(b"x")
    listed(played, artifact(name, b"x", path=str(tmp_path / "there")))
    assert run("artifacts", "x", "--download", str(tmp_path / "here"), url=played.url).exit_code == 2
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["there"]
