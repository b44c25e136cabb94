"""`gemtune data download` against a fake service."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.test_cli import run
from tests.unit.cli.test_data import ID, dataset
from tests.unit.conftest import FakeService

OTHER = "another content"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder of the commands."""
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def serve(service: FakeService, tmp_path: Path, *names: str, name: str | None = "tickets.csv") -> None:
    """Let a service have a dataset of files that contain their names."""
    links = []
    for number, path in enumerate(names):
        source = tmp_path / f"stored-{number}"
        source.write_text(path)
        digest = hashlib.sha256(path.encode()).hexdigest()
        links.append({"name": path, "bytes": len(path), "sha256": digest, "url": None, "path": str(source)})
    pages = [(200, {"files": links[:1], "next_after": 1}), (200, {"files": links[1:], "next_after": None})]
    whole = (200, {"files": links, "next_after": None})
    service.answers["GET", f"/datasets/{ID}/files"] = pages if len(links) > 1 else whole
    service.answers["GET", f"/datasets/{ID}"] = (200, dataset("ready", name=name))


def files_of(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "stored", "expected"),
    [
        ("tickets.csv", "train.csv", "tickets.csv"),
        ("tickets", "train.csv.gz", "tickets.csv.gz"),
        ("../tickets", "train.csv", f"{ID}.csv"),
        (None, "train.jsonl", f"{ID}.jsonl"),
        ("notes", "README", "notes"),
    ],
)
def test_one_file_gets_the_name_of_its_dataset(
    service: FakeService, tmp_path: Path, folder: Path, name: str | None, stored: str, expected: str
) -> None:
    serve(service, tmp_path, stored, name=name)
    result = run("data", "download", ID, url=service.url)
    assert (result.exit_code, result.stdout, files_of(folder)) == (0, f"{expected}\n", {expected: stored})


def test_one_file_goes_where_the_user_says(service: FakeService, tmp_path: Path, folder: Path) -> None:
    serve(service, tmp_path, "train.csv")
    (folder / "there").mkdir()
    for output, expected in (
        *(("x.csv", "x.csv"), ("there", "there/tickets.csv"), ("new/y.csv", "new/y.csv")),
        ("newer/", "newer/tickets.csv"),
    ):
        assert run("data", "download", ID, "-o", output, url=service.url).stdout == f"{expected}\n"
        assert files_of(folder)[expected] == "train.csv"
    result = run("data", "download", ID, "-o", "-", url=service.url)
    assert (result.exit_code, result.stdout) == (0, "train.csv")


def test_several_files_go_into_a_folder(service: FakeService, tmp_path: Path, folder: Path) -> None:
    names = ("eval.jsonl", "pictures/a.png")
    for options, expected in (([], "tickets"), (["-o", "here"], "here")):
        serve(service, tmp_path, *names, name="tickets")
        result = run("data", "download", ID, *options, "--json", url=service.url)
        assert (result.exit_code, files_of(folder / expected)) == (0, {name: name for name in names})
        assert [file["path"] for file in json.loads(result.stdout)["files"]] == [f"{expected}/{name}" for name in names]
    (folder / "file").touch()
    for output in ("-", "file"):
        serve(service, tmp_path, *names)
        assert run("data", "download", ID, "-o", output, url=service.url).exit_code == 2


def test_a_file_with_another_content_is_replaced_only_by_force(
    service: FakeService, tmp_path: Path, folder: Path
) -> None:
    serve(service, tmp_path, "train.csv")
    (folder / "tickets.csv").write_text(OTHER)
    result = run("data", "download", ID, url=service.url)
    assert (result.exit_code, files_of(folder)) == (1, {"tickets.csv": OTHER})
    assert result.stderr.startswith("file_exists: tickets.csv")
    for options in (["--force"], []):  # the second time, the same content is there already
        assert run("data", "download", ID, *options, url=service.url).exit_code == 0
        assert files_of(folder) == {"tickets.csv": "train.csv"}


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"sha256": None, "bytes": 1}])
def test_another_content_than_recorded_is_not_kept(
    service: FakeService, tmp_path: Path, folder: Path, change: dict[str, Any]
) -> None:
    serve(service, tmp_path, "train.csv")
    service.answers["GET", f"/datasets/{ID}/files"][1]["files"][0].update(change)  # type: ignore[index]
    result = run("data", "download", ID, url=service.url)
    assert (result.exit_code, "differs from the service's record" in result.stderr) == (1, True)
    assert files_of(folder) == {}


def test_a_link_that_is_interrupted_says_how_to_go_on(service: FakeService, tmp_path: Path) -> None:
    serve(service, tmp_path, "train.csv")
    files = service.answers["GET", f"/datasets/{ID}/files"][1]["files"]  # type: ignore[index]
    files[0].update(url=f"{service.url}/file", path=None)
    service.answers["GET", "/file"] = None
    result = run("data", "download", ID, url=service.url)
    assert (result.exit_code, "repeat the command to go on" in result.stderr) == (5, True)
