"""Working folders of trainers, which are removed when their jobs are over."""

from __future__ import annotations

from pathlib import Path

from gemtune.local_server.work_folders import remove_idle
from tests.fakes import World


def test_folders_of_jobs_that_are_over_or_gone_are_removed_and_no_others(world: World, tmp_path: Path) -> None:
    cancelled, running, paused, unreadable, ended = (world.submit() for _ in range(5))
    world.services.cancel(cancelled)
    world.services.cancel(ended)
    world.write_record(paused, world.record(paused) | {"status": "paused"})
    world.make_unreadable(unreadable)
    world.make_unreadable(ended)
    for job_id in (cancelled, running, paused, unreadable, ended, "training_gone"):
        (tmp_path / "work" / job_id).mkdir(parents=True)
    remove_idle(tmp_path / "work", world.services.store)
    assert {folder.name for folder in (tmp_path / "work").iterdir()} == {running, paused, unreadable}
    remove_idle(tmp_path / "nowhere", world.services.store)
