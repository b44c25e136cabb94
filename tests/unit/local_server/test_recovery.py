"""Recovery of a server that died at the worst moment."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from gemtune.embedded.sqlite_launcher import SqliteLauncher
from gemtune.jobs.record import Claim
from gemtune.local_server.recovery import recover
from tests.fakes import World


def requested(world: World) -> list[str]:
    return [json.loads(received.message)["job_id"] for received in world.services.bus.lease(["dispatch"], 10)]


def test_a_job_that_was_accepted_but_not_published_is_published(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(type(world.services.bus), "publish", lambda *args, **kwargs: 1 / 0)
        job_id = world.submit()
    recover(world.services, world.services.bus)
    assert requested(world) == [job_id]


def test_only_a_launch_without_an_execution_gets_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = SqliteLauncher(world.services.database, clock=world.clock)
    world.services.__dict__["launcher"] = launcher
    cut_off, started = world.submit(), world.submit()
    with monkeypatch.context() as broken:
        broken.setattr(type(launcher), "start", lambda *args: exit())
        with pytest.raises(SystemExit):
            world.services.dispatch.launch(cut_off)
    world.services.dispatch.launch(started)
    before = {job_id: execution for execution, job_id, _ in launcher.active()}
    recover(world.services, world.services.bus)
    after = {job_id: execution for execution, job_id, _ in launcher.active()}
    assert set(after) == {cut_off, started}
    assert after[started] == before[started]


def test_a_claimed_job_is_left_to_its_execution(world: World) -> None:
    job_id = world.submit()
    world.services.dispatch.launch(job_id)
    world.services.control.claim(job_id, Claim(launch=1, execution="e"))
    recover(world.services, world.services.bus)
    assert world.launcher.started == [(job_id, 1)]


def test_messages_that_a_dead_server_had_taken_are_due_again(world: World) -> None:
    job_id = world.submit()
    assert requested(world) == [job_id]
    assert requested(world) == []
    world.services.dispatch.launch(job_id)
    recover(world.services, world.services.bus)
    assert requested(world) == [job_id]


def test_a_launch_that_a_power_failure_undoes_is_made_again(world: World, tmp_path: Path) -> None:
    """Copy the log up to the last durable commit, which is on the disk."""
    world.services.__dict__["launcher"] = SqliteLauncher(world.services.database, clock=world.clock)
    job_id = world.submit()
    with world.services.database.write() as connection:
        connection.execute("DELETE FROM deliveries")
    log = Path(f"{world.services.database.path}-wal")
    durable_bytes = log.stat().st_size
    world.services.dispatch.launch(job_id)
    assert world.services.database.read().execute("PRAGMA synchronous").fetchone()[0] == 1  # it waited for no disk
    shutil.copytree(world.services.settings.home, tmp_path / "after")
    os.truncate(tmp_path / "after" / log.relative_to(world.services.settings.home), durable_bytes)

    after = World(tmp_path / "after")
    launcher = SqliteLauncher(after.services.database, clock=after.clock)
    after.services.__dict__["launcher"] = launcher
    assert (after.services.store.get(job_id).launch.number, launcher.active()) == (0, [])
    recover(after.services, after.services.bus)
    assert requested(after) == [job_id]
    after.services.dispatch.launch(job_id)
    assert [(launched, number) for _, launched, number in launcher.active()] == [(job_id, 1)]
