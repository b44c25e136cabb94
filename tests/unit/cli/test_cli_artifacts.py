"""`gemtune artifacts` against a fake service: listing, downloads and refusals."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.test_cli import run
from tests.unit.conftest import FakeService

JOB = "training_d_m_0123456789ab"


def artifact(name: str, content: bytes, **location: str) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"name": name, "bytes": len(content), "sha256": sha256, "url": None, "path": None} | location


def serve_artifacts(service: FakeService, *artifacts: dict[str, Any]) -> None:
    service.answers["GET", f"/jobs/{JOB}/artifacts"] = (200, {"artifacts": list(artifacts)})


def test_artifacts_are_listed_with_their_locations(service: FakeService) -> None:
    serve_artifacts(service, artifact("a", b"1", path="/home/a"), artifact("b", b"22", url="https://b.invalid/b?sig"))
    lines = run("artifacts", JOB, url=service.url).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert [line.split()[2] for line in lines] == ["/home/a", "https://b.invalid/b?sig"]


def test_files_are_downloaded_from_links_and_paths_and_verified(service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "artifact").write_bytes(b"from a path")
    service.answers["GET", "/b"] = (200, "from a link")  # FakeService encodes its answers as JSON
    serve_artifacts(
        service,
        artifact("a.bin", b"from a path", path=str(tmp_path / "artifact")),
        artifact("deep/b.bin", b'"from a link"', url=f"{service.url}/b"),
    )
    result = run("artifacts", JOB, "--download", str(tmp_path / "download"), url=service.url)
    assert result.exit_code == 0
    files = {
        p.relative_to(tmp_path / "download").as_posix(): p.read_bytes() for p in (tmp_path / "download").rglob("*.*")
    }
    assert files == {"a.bin": b"from a path", "deep/b.bin": b'"from a link"'}


def test_a_file_that_was_downloaded_before_is_not_requested(service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b'"same"')
    serve_artifacts(service, artifact("b", b'"same"', url=f"{service.url}/b"))
    assert run("artifacts", JOB, "--download", str(tmp_path), url=service.url).exit_code == 0
    assert [path for _, path, _, _ in service.requests] == [f"/jobs/{JOB}/artifacts"]


def test_a_file_with_another_checksum_is_not_kept(service: FakeService, tmp_path: Path) -> None:
    service.answers["GET", "/b"] = (200, "another")
    serve_artifacts(service, artifact("b", b"recorded", url=f"{service.url}/b"))
    result = run("artifacts", JOB, "--download", str(tmp_path), url=service.url)
    assert (result.exit_code, "SHA-256" in result.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_download_is_retried_and_a_refused_link_is_not_printed(service: FakeService, tmp_path: Path) -> None:
    service.answers["GET", "/b"] = [None, (200, "b")]
    serve_artifacts(service, artifact("b", b'"b"', url=f"{service.url}/b"))
    assert run("artifacts", JOB, "--download", str(tmp_path), url=service.url).exit_code == 0
    service.answers["GET", "/c"] = (403, "expired")
    serve_artifacts(service, artifact("c", b"c", url=f"{service.url}/c?signature=fake"))
    result = run("artifacts", JOB, "--download", str(tmp_path), url=service.url)
    assert (result.exit_code, result.stderr) == (
        1,
        "download_failed: c: the link answered with HTTP 403; links expire after an hour: try again\n",
    )


@pytest.mark.parametrize("name", ["../outside", "/etc/x", "a/../../b"])
def test_a_name_that_leaves_the_folder_is_not_written(service: FakeService, tmp_path: Path, name: str) -> None:
    (tmp_path / "artifact").write_bytes(b"x")
    serve_artifacts(service, artifact(name, b"x", path=str(tmp_path / "artifact")))
    assert run("artifacts", JOB, "--download", str(tmp_path / "download"), url=service.url).exit_code == 2
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["artifact"]
