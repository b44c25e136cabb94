"""Working folders of trainers, which are removed when their jobs are over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gemtune.local_server.work_folders import remove_ended_checks, remove_idle
from gemtune.process.children import NAME_VARIABLE
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


def test_folders_of_checks_that_were_killed_are_removed(tmp_path: Path) -> None:
    running, killed = (tmp_path / "checks" / f"check_{name}_{os.getpid()}" for name in ("running", "killed"))
    for folder in (running, killed):
        (folder / "work").mkdir(parents=True)
    wait = [sys.executable, "-c", "print(flush=True); input()"]
    pipe, environment = subprocess.PIPE, os.environ | {NAME_VARIABLE: running.name}
    with subprocess.Popen(wait, stdin=pipe, stdout=pipe, env=environment) as child:
        assert child.stdout is not None
        child.stdout.readline()  # a process that only just begins has no environment yet
        remove_ended_checks(tmp_path / "checks")
        assert [folder.name for folder in (tmp_path / "checks").iterdir()] == [running.name]
        child.communicate(b"\n")
    remove_ended_checks(tmp_path / "checks")
    assert list((tmp_path / "checks").iterdir()) == []
    remove_ended_checks(tmp_path / "nowhere")


def test_results_of_checks_without_the_service_are_not_in_a_folder_that_it_clears(world: World) -> None:
    settings = world.services.settings
    results = settings.local_checks / "rows.csv-0123abcd"
    results.mkdir(parents=True)
    remove_ended_checks(settings.work_of_checks)
    remove_idle(settings.work, world.services.store)
    assert results.is_dir()
