"""File permissions in a folder of objects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from gemtune.embedded.folder_objects import FolderObjects
from tests.fakes import World


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_other_users_can_read_results_and_nothing_else(world: World, tmp_path: Path) -> None:
    services = world.services
    (tmp_path / "weights").write_bytes(b"0" * 10)
    (tmp_path / "weights").chmod(0o600)
    services.secrets.create("gemtune-user-fake", "fake-token", ttl=timedelta(days=1))
    for bucket in (services.buckets.export, services.buckets.config, services.buckets.data):
        bucket.write("jobs/a/written", b"1")
        bucket.create("jobs/b/c/created", b"2")
        bucket.upload(tmp_path / "weights", "jobs/d/uploaded")
    assert modes(services.settings.home / services.buckets.export.bucket) == {0o644, 0o755}
    for private in (services.buckets.config.bucket, services.buckets.data.bucket, "secrets"):
        assert modes(services.settings.home / private) == {0o600, 0o700}


def test_a_folder_that_its_owner_opened_to_others_stays_open(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o770)
    FolderObjects(tmp_path / "data", "data")
    assert modes(tmp_path / "data") == {0o770}


def modes(folder: Path) -> set[int]:
    """Return the permissions of a folder and all within it.

    The folder of unfinished files is left out.
    """
    within = [path for path in folder.rglob("*") if not path.name.startswith(".")]
    return {path.stat().st_mode & 0o777 for path in (folder, *within)}
