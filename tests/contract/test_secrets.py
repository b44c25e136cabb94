"""Secrets: readable by name for their time, and by nobody else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from gemtune.errors import SecretNotFound, UnsafeName
from gemtune.ports import Secrets
from tests.fakes import FakeClock

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


def test_of_thirty_who_make_a_secret_once_all_get_the_same(secrets: Secrets) -> None:
    with ThreadPoolExecutor(30) as pool:
        values = set(pool.map(lambda number: secrets.create_once("gemtune-key", f"value{number}"), range(30)))
    assert len(values) == 1
    assert secrets.create_once("gemtune-key", "late") in values


def test_a_second_value_replaces_the_first_and_its_time(secrets: Secrets, clock: FakeClock) -> None:
    secrets.create("gemtune-job-a", "one", ttl=DAY)
    clock.advance(hours=23)
    secrets.create("gemtune-job-a", "two", ttl=DAY)
    clock.advance(hours=23)
    assert secrets.read("gemtune-job-a") == "two"


def test_a_secret_knows_when_it_was_made(secrets: Secrets, clock: FakeClock) -> None:
    secrets.create("gemtune-job-a", "one", ttl=DAY)
    (stat,) = secrets.list("gemtune-job-")
    assert stat.created_at == clock.now()
