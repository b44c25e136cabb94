"""Secrets in files: readable by their owner only."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from tests.fakes import World


def test_only_the_owner_can_read_a_secret(world: World) -> None:
    world.services.secrets.create("gemtune-job-a", "value", ttl=timedelta(days=1))
    folder = Path(world.services.settings.home) / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "gemtune-job-a").stat().st_mode & 0o777 == 0o600
