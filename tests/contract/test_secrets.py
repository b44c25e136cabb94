"""Secrets: readable by name for their time, and by nobody else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from gemtune.errors import SecretNotFound, UnsafeName
from gemtune.ports import Secrets
from tests.fakes import FakeClock, World

DAY = timedelta(days=1)


def test_a_secret_is_read_until_its_time_is_over(secrets: Secrets, clock: FakeClock) -> None:
    secrets.create("gemtune-job-a", "value", ttl=DAY)
    clock.advance(hours=23)
    assert secrets.read("gemtune-job-a") == "value"
    secrets.renew("gemtune-job-a", ttl=DAY)
    clock.advance(hours=23)
    assert secrets.read("gemtune-job-a") == "value"
    clock.advance(hours=1)
    for use in (secrets.read, lambda name: secrets.renew(name, ttl=DAY)):
        with pytest.raises(SecretNotFound) as caught:
            use("gemtune-job-a")
        assert "value" not in str(caught.value)


def test_a_secret_without_a_time_stays(secrets: Secrets, clock: FakeClock) -> None:
    secrets.create("gemtune-user-a", "value", ttl=None)
    clock.advance(days=10_000)
    assert secrets.read("gemtune-user-a") == "value"


def test_a_deleted_secret_is_gone(secrets: Secrets) -> None:
    secrets.create("gemtune-job-a", "value", ttl=DAY)
    secrets.create("gemtune-user-a", "value", ttl=DAY)
    assert [stat.name for stat in secrets.list("gemtune-job-")] == ["gemtune-job-a"]
    secrets.delete("gemtune-job-a")
    secrets.delete("gemtune-job-a")
    assert list(secrets.list("gemtune-job-")) == []
    with pytest.raises(SecretNotFound):
        secrets.read("gemtune-job-a")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "ä", "x" * 256])
def test_a_name_that_is_none_is_refused(secrets: Secrets, name: str) -> None:
    with pytest.raises(UnsafeName):
        secrets.read(name)


def test_nobody_else_on_the_machine_can_read_one(secrets: Secrets, backend: World) -> None:
    secrets.create("gemtune-job-a", "value", ttl=DAY)
    folder = Path(backend.services.settings.home) / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "gemtune-job-a").stat().st_mode & 0o777 == 0o600
