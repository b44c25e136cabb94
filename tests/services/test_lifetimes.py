"""Periods of retention, waiting and leases, each to the second as documented."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gemtune.checks.record import RECORDS
from gemtune.datasets.uploads.record import UPLOADING
from gemtune.embedded.folder_objects import FolderObjects
from gemtune.errors import JobWasDeleted, SecretNotFound
from gemtune.jobs.record import Claim
from gemtune.jobs.status import Step
from gemtune.ports import ExecutionState, ObjectStat
from gemtune.services import sweep
from gemtune.services.cleanup import order
from tests.fakes import World

SECOND = timedelta(seconds=1)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a world on one backend only: the services count these times."""
    return World(tmp_path / "home")


def pass_time(world: World, by: timedelta) -> None:
    world.clock.advance(seconds=by.total_seconds())


def claimed(world: World, job_id: str) -> Claim:
    world.services.dispatch.launch(job_id)
    claim = Claim(launch=1, execution="first")
    assert world.services.control.claim(job_id, claim) is not None
    return claim


def test_a_token_lives_for_eight_days_from_the_last_begin_of_a_step(world: World) -> None:
    job_id = world.submit(hf_token="hf_fakefakefake")
    job, advance = world.services.store.get(job_id), world.services.advance
    claim = claimed(world, job_id)
    pass_time(world, timedelta(days=8) - SECOND)
    assert advance.secret(job, "hf_token") == "hf_fakefakefake"
    advance.begin(job_id, Step.PREPARE, claim, execution="run")
    pass_time(world, timedelta(days=8) - SECOND)
    assert advance.secret(job, "hf_token") == "hf_fakefakefake"
    pass_time(world, SECOND)
    with pytest.raises(SecretNotFound):
        advance.secret(job, "hf_token")


def test_the_key_of_a_deleted_job_is_taken_for_thirty_days(world: World) -> None:
    job_id = world.submit(key="once")
    world.services.cancel(job_id)
    world.services.delete(job_id)
    pass_time(world, timedelta(days=30) - SECOND)
    world.services.sweep()
    assert world.services.store.was_deleted(job_id)
    with pytest.raises(JobWasDeleted):
        world.submit(key="once")
    pass_time(world, SECOND)
    world.services.sweep()
    assert not world.services.store.was_deleted(job_id)
    assert world.submit(key="once") == job_id  # the same key gives the same id


def test_late_files_of_a_deleted_job_are_removed_for_two_days(world: World) -> None:
    job_id = world.submit()
    world.services.cancel(job_id)
    world.services.delete(job_id)
    export = world.services.buckets.export
    late = f"jobs/{job_id}/late"
    pass_time(world, timedelta(days=2) - SECOND)
    export.write(late, b"")
    world.services.sweep()
    assert export.stat(late) is None
    pass_time(world, 2 * SECOND)
    export.write(late, b"")
    world.services.sweep()
    assert export.stat(late) is not None


def test_the_message_of_a_job_without_a_launch_is_repeated_after_a_minute(world: World) -> None:
    job_id = world.submit()
    assert len(world.messages("requests")) == 1
    pass_time(world, timedelta(minutes=1) - SECOND)
    world.services.sweep()
    assert world.messages("requests") == []
    pass_time(world, SECOND)
    world.services.sweep()
    assert [message["job_id"] for message in world.messages("requests")] == [job_id]


def test_a_launch_has_three_minutes_to_be_claimed(world: World) -> None:
    job_id = world.submit()
    world.services.dispatch.launch(job_id)
    world.launcher.states[f"{job_id}#1"] = ExecutionState.FAILED
    pass_time(world, timedelta(minutes=3) - SECOND)
    world.services.sweep()
    assert world.launcher.started == [(job_id, 1)]
    pass_time(world, SECOND)
    world.services.sweep()
    assert world.launcher.started == [(job_id, 1), (job_id, 2)]


def test_a_relaunch_has_three_minutes_to_be_claimed_too(world: World) -> None:
    job_id = world.submit()
    claim = claimed(world, job_id)
    world.launcher.states[claim.execution] = ExecutionState.FAILED
    world.services.sweep()
    assert world.services.store.get(job_id).launch.lease_until == world.clock.now() + timedelta(minutes=3)


def test_a_step_without_a_heartbeat_is_replaced_after_its_timeout(world: World) -> None:
    job_id = world.submit()
    world.services.advance.begin(job_id, Step.PREPARE, claimed(world, job_id), execution="run")
    pass_time(world, timedelta(seconds=world.services.settings.prepare_timeout_seconds))
    world.services.sweep()
    assert world.services.store.get(job_id).launch.number == 1
    pass_time(world, SECOND)
    world.services.sweep()
    assert world.services.store.get(job_id).launch.number == 2


def test_a_secret_without_a_job_is_removed_after_an_hour(world: World) -> None:
    secrets = world.services.secrets
    secrets.create("gemtune-job-training_gone-hf_token-0", "hf_fakefakefake", ttl=timedelta(days=8))
    secrets.create("gemtune-user-mine", "hf_fakefakefake", ttl=None)
    pass_time(world, timedelta(hours=1) - SECOND)
    world.services.sweep()
    assert len(world.stored_secrets()) == 2
    pass_time(world, SECOND)
    world.services.sweep()
    assert world.stored_secrets() == ["gemtune-user-mine"]


def test_the_spec_and_secrets_of_an_unreadable_job_stay(world: World) -> None:
    """A newer version may have written its record."""
    job_id = world.submit(hf_token="hf_fakefakefake")
    specs, secrets = world.stored_specs(), world.stored_secrets()
    assert specs
    assert secrets
    world.make_unreadable(job_id)
    config = world.services.buckets.config
    written = (world.clock.now() - timedelta(hours=2)).timestamp()
    for name in specs:
        os.utime(config.uri(name), (written, written))
    world.clock.advance(hours=2)
    world.services.sweep()
    assert (world.stored_specs(), world.stored_secrets()) == (specs, secrets)


@pytest.mark.parametrize(
    ("age", "stays"),
    [
        (timedelta(hours=1) - SECOND, True),  # its record may be about to be written
        (timedelta(hours=1), False),
        (timedelta(days=9), False),
    ],
)
def test_a_new_spec_without_a_job_is_removed_after_an_hour(world: World, age: timedelta, stays: bool) -> None:
    config = world.services.buckets.config
    for folder in ("specs", "new-specs"):
        config.write(f"{folder}/training_gone-0.json", b"{}")
    written = (world.clock.now() - age).timestamp()
    os.utime(config.uri("new-specs/training_gone-0.json"), (written, written))
    world.services.sweep()
    assert [stat.name for stat in config.list("")] == (
        ["new-specs/training_gone-0.json", "specs/training_gone-0.json"] if stays else []
    )


def test_a_sweep_lists_no_specs_of_jobs_that_it_has_checked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make no more calls when there are more jobs."""
    config = world.services.buckets.config
    jobs = [world.submit() for _ in range(3)]
    for stat in list(config.list("new-specs/")):
        written = (world.clock.now() - timedelta(hours=2)).timestamp()
        os.utime(config.uri(stat.name), (written, written))
    world.services.sweep()
    assert len(world.stored_specs()) == len(jobs)
    assert list(config.list("new-specs/")) == []
    listed: list[tuple[str, str]] = []
    names = type(config).list

    def listing(self: FolderObjects, prefix: str) -> Iterator[ObjectStat]:
        listed.append((self.bucket, prefix))
        return names(self, prefix)

    monkeypatch.setattr(type(config), "list", listing)
    world.services.sweep()
    assert [prefix for bucket, prefix in listed if bucket == config.bucket] == ["new-specs/"]


def test_a_sweep_without_time_goes_on_where_it_stopped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [world.submit(job_name=f"job {number}") for number in range(7)]
    unfinished = [job.job_id for job in world.services.store.unfinished()]
    assert sorted(unfinished) == sorted(jobs)
    repaired: list[str] = []
    ticks = itertools.count(0, 80)  # the third job is repaired just when the time is up
    monkeypatch.setattr(type(world.clock), "monotonic", lambda self: float(next(ticks)))
    monkeypatch.setattr(sweep.Sweep, "_repair", lambda self, job, now: repaired.append(job.job_id))
    for _ in range(3):
        world.services.sweep()
    assert repaired == unfinished  # three, three and one
    assert world.services.shared.read("sweeps/jobs") is None


def test_many_secrets_are_checked_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "CHECKED_PER_SWEEP", 5)
    for number in range(20):
        world.services.secrets.create(f"gemtune-job-training_gone-hf_token-{number}", "x", ttl=timedelta(days=8))
    pass_time(world, timedelta(hours=2))
    left = []
    for _ in range(4):
        world.services.sweep()
        left.append(len(world.stored_secrets()))
        pass_time(world, timedelta(seconds=order.SWEEP_SECONDS))
    assert left[0] > 0
    assert left[-1] == 0


@pytest.mark.parametrize(("hours", "stays"), [(0.99, True), (1.01, False)])
def test_a_half_written_object_is_removed_after_an_hour(world: World, hours: float, stays: bool) -> None:
    unfinished = Path(world.services.buckets.data.uri("x")).parent / ".unfinished" / "abandoned"
    unfinished.parent.mkdir(exist_ok=True)
    unfinished.write_bytes(b"half")
    written = (world.clock.now() - timedelta(hours=hours)).timestamp()
    os.utime(unfinished, (written, written))
    world.services.sweep()
    assert unfinished.exists() is stays


@pytest.mark.parametrize("name", [f"{UPLOADING}dataset_x/begun", f"{RECORDS}dataset_x/check_y.json"])
def test_an_upload_and_a_check_are_removed_a_week_after_their_last_write(world: World, name: str) -> None:
    data = world.services.buckets.data
    data.write(name, b"{}")
    stat = data.stat(name)
    assert stat is not None
    for age, stays in ((timedelta(days=7), True), (timedelta(days=7) + SECOND, False)):
        world.clock.time = stat.updated_at + age
        world.services.sweep()
        assert (data.stat(name) is not None) is stays


@pytest.mark.parametrize(("timeout", "seconds"), [(3600, 3480), (240, 120), (200, 100), (60, 30)])
def test_a_step_gets_two_minutes_less_than_the_timeout_of_the_platform(
    world: World, timeout: int, seconds: int
) -> None:
    """Give it half of a timeout shorter than four minutes."""
    job_id = world.submit()
    control = replace(world.services.control, timeouts=dict.fromkeys(Step, timeout))
    world.services.dispatch.launch(job_id)
    plan = control.claim(job_id, Claim(launch=1, execution="first"))
    assert plan is not None
    for step in Step:
        assert plan[step].timeout_seconds == timeout
        assert plan[step].args[-2:] == ("--seconds", str(seconds))
