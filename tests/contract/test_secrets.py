"""Secrets: readable by name until they expire."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from gemtune.errors import SecretNotFound, UnsafeName
from gemtune.ports import Secrets
from tests.fakes import FakeClock

DAY = timedelta(days=1)


def test_a_secret_is_readable_until_it_expires(secret_store: Secrets, clock: FakeClock) -> None:
    secret_store.create("gemtune-job-a", "value", ttl=DAY)
    clock.advance(hours=23)
    assert secret_store.read("gemtune-job-a") == "value"
    secret_store.renew("gemtune-job-a", ttl=DAY)
    clock.advance(hours=23)
    assert secret_store.read("gemtune-job-a") == "value"
    clock.advance(hours=1)
    for use in (secret_store.read, lambda name: secret_store.renew(name, ttl=DAY)):
        with pytest.raises(SecretNotFound) as caught:
            use("gemtune-job-a")
        assert "value" not in str(caught.value)


def test_a_secret_without_an_expiry_stays(secret_store: Secrets, clock: FakeClock) -> None:
    secret_store.create("gemtune-user-a", "value", ttl=None)
    clock.advance(days=10_000)
    assert secret_store.read("gemtune-user-a") == "value"


def test_a_deleted_secret_is_gone(secret_store: Secrets) -> None:
    secret_store.create("gemtune-job-a", "value", ttl=DAY)
    secret_store.create("gemtune-user-a", "value", ttl=DAY)
    assert [stat.name for stat in secret_store.list("gemtune-job-")] == ["gemtune-job-a"]
    secret_store.delete("gemtune-job-a")
    secret_store.delete("gemtune-job-a")
    assert list(secret_store.list("gemtune-job-")) == []
    with pytest.raises(SecretNotFound):
        secret_store.read("gemtune-job-a")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "ä", "x" * 256])
def test_an_invalid_name_is_refused(secret_store: Secrets, name: str) -> None:
    with pytest.raises(UnsafeName):
        secret_store.read(name)


def test_thirty_concurrent_calls_of_create_once_return_the_same_secret(secret_store: Secrets) -> None:
    with ThreadPoolExecutor(30) as pool:
        values = set(pool.map(lambda number: secret_store.create_once("gemtune-key", f"value{number}"), range(30)))
    assert len(values) == 1
    assert secret_store.create_once("gemtune-key", "late") in values


def test_a_second_value_replaces_the_first_and_its_expiry(secret_store: Secrets, clock: FakeClock) -> None:
    secret_store.create("gemtune-job-a", "one", ttl=DAY)
    clock.advance(hours=23)
    secret_store.create("gemtune-job-a", "two", ttl=DAY)
    clock.advance(hours=23)
    assert secret_store.read("gemtune-job-a") == "two"


def test_a_secret_has_its_time_of_creation(secret_store: Secrets, clock: FakeClock) -> None:
    secret_store.create("gemtune-job-a", "one", ttl=DAY)
    (stat,) = secret_store.list("gemtune-job-")
    assert stat.created_at == clock.now()
