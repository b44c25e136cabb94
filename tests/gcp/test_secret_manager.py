"""Versions of a secret: which one counts."""

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
    found = SecretManagerStandIn()
    yield found
    found.stop()


@pytest.fixture
def secrets(stand_in: SecretManagerStandIn) -> SecretManagerSecrets:
    return SecretManagerSecrets("p", endpoint=stand_in.address)


def test_a_secret_is_there_at_once_though_latest_lags_behind(
    secrets: SecretManagerSecrets, stand_in: SecretManagerStandIn
) -> None:
    secrets.create(NAME, "value", ttl=timedelta(days=1))
    stand_in.lag = 1
    assert secrets.read(NAME) == "value"


def test_what_its_owner_disabled_is_not_replaced_by_an_older_one(secrets: SecretManagerSecrets) -> None:
    secrets.create(NAME, "old", ttl=None)
    secrets.create(NAME, "new", ttl=None)
    assert secrets.read(NAME) == "new"
    secrets._client.disable_secret_version(name=f"projects/p/secrets/{NAME}/versions/2")
    with pytest.raises(SecretNotFound):
        secrets.read(NAME)


def test_a_secret_that_waits_for_its_value_is_not_made_again(
    secrets: SecretManagerSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Terraform makes the key of webhooks without a value; who may only add one has no right to make secrets."""
    assert secrets._create(NAME, None)

    def forbidden(*args: object) -> bool:
        raise AssertionError("not allowed")

    monkeypatch.setattr(secrets, "_create", forbidden)
    assert [secrets.create_once(NAME, value) for value in ("first", "second")] == ["first", "first"]
