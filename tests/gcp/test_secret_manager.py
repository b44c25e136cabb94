"""Versions of a secret: which one is read, and when one is created."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from gemtune.errors import SecretNotFound
from gemtune.gcp.secret_manager import SecretManagerSecrets
from tests.emulators.secret_manager import SecretManagerStandIn

NAME = "gemtune-user-mine"


@pytest.fixture
def stand_in() -> Iterator[SecretManagerStandIn]:
    stand_in = SecretManagerStandIn()
    yield stand_in
    stand_in.stop()


@pytest.fixture
def secret_store(stand_in: SecretManagerStandIn) -> SecretManagerSecrets:
    return SecretManagerSecrets("p", endpoint=stand_in.address)


def test_a_new_secret_is_readable_at_once_even_if_latest_lags(
    secret_store: SecretManagerSecrets, stand_in: SecretManagerStandIn
) -> None:
    secret_store.create(NAME, "value", ttl=timedelta(days=1))
    stand_in.lag = 1
    assert secret_store.read(NAME) == "value"


def test_a_disabled_version_is_not_replaced_by_an_older_one(secret_store: SecretManagerSecrets) -> None:
    secret_store.create(NAME, "old", ttl=None)
    secret_store.create(NAME, "new", ttl=None)
    assert secret_store.read(NAME) == "new"
    secret_store._client.disable_secret_version(name=f"projects/p/secrets/{NAME}/versions/2")
    with pytest.raises(SecretNotFound):
        secret_store.read(NAME)


def test_a_secret_without_a_value_gets_a_version_and_is_not_created_again(
    secret_store: SecretManagerSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Allow only new versions, as for the webhook key.

    Terraform creates that secret without a value, and the functions' account may not create secrets.
    """
    assert secret_store._create(NAME, None)

    def forbidden(*args: object) -> bool:
        raise AssertionError("creating a secret is not allowed")

    monkeypatch.setattr(secret_store, "_create", forbidden)
    assert [secret_store.create_once(NAME, value) for value in ("first", "second")] == ["first", "first"]
