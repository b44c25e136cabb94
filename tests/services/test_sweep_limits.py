"""The sweep's parts: one that is slow or fails does not hold up the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gemtune.checks.record import RECORDS
from gemtune.datasets.uploads.record import UPLOADING
from gemtune.jobs.record import Claim
from gemtune.ports import ExecutionState
from gemtune.services.budgets.ledger import OwnerBudgets
from gemtune.services.cleanup.order import SWEEP_SECONDS
from gemtune.services.cleanup.positions import Position
from gemtune.services.datasets.upload import UploadDataset
from gemtune.services.fan_out import FanOut
from gemtune.services.machine_slots import MachineSlots
from gemtune.services.sweep import PART_SECONDS, REPAIR_SECONDS, SWEEP_LIMIT, Sweep
from tests.fakes import World
from tests.services.damage import damaged
from tests.services.test_running import Running
from tests.services.test_sweep import fail


class Backlog:
    """Six things for a part of the sweep to do.

    of, method: class, and name of its method that the part calls for each of them.
    """

    def __init__(self, world: World, part: str):
        self.world, services, self.subjects = world, world.services, list[Any]()
        self.job_ids = [world.submit(key=str(number), hf_token="hf_fakefakefake") for number in range(6)]
        of_parts: Mapping[str, tuple[type, str]] = {
            "events": (FanOut, "__call__"),
            "slots": (MachineSlots, "take_back_slot"),
            "accounts": (OwnerBudgets, "remove"),
            "secrets": (type(services.secrets), "delete"),
            "specs": (type(services.buckets.config), "delete"),
            "deleted jobs": (type(services.buckets.export), "delete_prefix"),
            "tombstones": (type(services.store), "drop_tombstones"),
            "uploads": (UploadDataset, "remove_abandoned"),
            "checks": (type(services.buckets.data), "delete"),
        }
        self.of, self.method = of_parts[part]
        if part != "events":
            for job_id in self.job_ids:
                services.cancel(job_id)
        if part == "slots":
            services.slots.capacities["l4"] = len(self.job_ids)  # type: ignore[index]
            for job_id in self.job_ids:
                services.slots.ask(services.store.get(job_id), "l4", launch=1)
        if part == "accounts":
            for number in range(len(self.job_ids)):
                services.shared.update(f"accounts/2020-0{number + 1}/{'0' * 32}/0", lambda _: "{}")
        if part in ("deleted jobs", "tombstones"):
            for job_id in self.job_ids:
                services.delete(job_id)
        for number in range(len(self.job_ids)):
            if part == "uploads":
                services.buckets.data.write(f"{UPLOADING}dataset_{number}/begun", b"")
            if part == "checks":
                services.buckets.data.write(f"{RECORDS}chats/check_{number}.json", b"{}")
        if part in ("specs", "uploads", "checks"):  # objects have their times from the machine's clock
            objects = [*services.buckets.config.list("new-specs/"), *services.buckets.data.list("datasets/")]
            world.clock.time = max(world.clock.now(), *(stat.updated_at for stat in objects))
        # Nothing is too young to be removed.
        world.clock.advance(days={"uploads": 8, "checks": 8, "tombstones": 31}.get(part, 0), hours=2)

    def left(self) -> int:
        """Return how many of the things are still to be done."""
        services = self.world.services
        deleted = [job_id for job_id in self.job_ids if services.store.was_deleted(job_id)]
        checked = [job_id for job_id in deleted if any(job_id in str(each) for each in self.subjects)]
        left: Mapping[str, Callable[[], int]] = {
            "__call__": lambda: len(set(self.job_ids) & set(services.store.unpublished())),
            "take_back_slot": lambda: sum(each.free_at is None for each in services.slots.table("l4").holders),
            "remove": lambda: len(list(services.shared.names("accounts/2020"))),
            "drop_tombstones": lambda: len(deleted),
            "delete_prefix": lambda: len(deleted) - len(checked),
        }
        if self.method in left:
            return left[self.method]()
        if self.of is type(services.secrets):
            return len(self.world.stored_secrets())
        return len([*services.buckets.config.list("new-specs/"), *services.buckets.data.list("datasets/")])

    def make_slow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let each thing take two minutes."""
        method = getattr(self.of, self.method)

        def slow(owner: Any, *subjects: Any, **options: Any) -> Any:
            self.world.clock.advance(minutes=2)
            self.subjects += subjects
            return method(owner, *subjects, **options)

        monkeypatch.setattr(self.of, self.method, slow)


PARTS = ("events", "slots", "accounts", "secrets", "specs", "deleted jobs", "tombstones", "uploads", "checks")


@pytest.mark.parametrize("part", PARTS)
def test_a_backlog_leaves_time_for_the_repair_of_jobs_and_is_worked_off(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "home")
    backlog = Backlog(world, part)
    lost = Running(world)
    world.launcher.states[lost.claim.execution] = ExecutionState.FAILED
    backlog.make_slow(monkeypatch)
    started = world.clock.now()
    world.services.sweep()
    assert world.clock.now() - started < timedelta(seconds=540)  # the function's timeout
    assert lost.job.launch.number == 2
    assert part == "tombstones" or backlog.left() > 0
    for _ in range(30):
        world.clock.advance(seconds=SWEEP_SECONDS)
        world.services.sweep()
    assert backlog.left() == 0


@pytest.mark.parametrize("part", [part for part in PARTS if part not in ("tombstones", "deleted jobs")])
def test_one_thing_that_fails_leaves_the_others_of_its_part_to_be_done(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "home")
    backlog = Backlog(world, part)
    method, first = getattr(backlog.of, backlog.method), list[Any]()

    def broken(owner: Any, *subjects: Any, **options: Any) -> Any:
        """Fail always for the thing that comes first."""
        first[:] = first or [subjects]
        return fail() if subjects == first[0] else method(owner, *subjects, **options)

    monkeypatch.setattr(backlog.of, backlog.method, broken)
    world.services.sweep()
    assert backlog.left() == 1


def test_parts_that_all_take_too_long_get_their_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every part have more to do than there is time for."""
    ran = Counter[str]()

    def endless(sweep: Sweep, part: str, repairs: Any, seconds: float) -> None:
        ran[part] += 1
        world.clock.advance(seconds=seconds + 20)  # one repair beyond its limit

    monkeypatch.setattr(Sweep, "_run", endless)
    for number in range(1, 10):
        started = world.clock.now()
        world.services.sweep()
        assert world.clock.now() - started <= timedelta(seconds=SWEEP_LIMIT + PART_SECONDS + 20)
        assert ran["jobs"] == ran["events"] == number
        world.clock.time = started + timedelta(seconds=SWEEP_SECONDS)
    assert set(ran) == {*PARTS, "jobs", "unfinished files"}
    assert min(ran.values()) >= 4
    assert REPAIR_SECONDS + (len(ran) - 1) * PART_SECONDS <= SWEEP_LIMIT  # usually none is left out


def test_the_documentation_names_the_limits() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "deployment.md").read_text().split())
    jobs, others = f"{REPAIR_SECONDS:.0f} seconds", f"{PART_SECONDS:.0f} seconds"
    assert f"A sweep spends at most {jobs} on unfinished jobs, and {others} on each other part" in page


def test_a_damaged_position_begins_anew(world: World) -> None:
    lost = Running(world)
    whole = Position(at=world.clock.now() + timedelta(days=1), job_id="training_x").model_dump_json()
    for name, body in (("whole", whole), *damaged(whole)):
        world.services.shared.update("sweeps/jobs", lambda _, body=body: body)  # type: ignore[misc]
        launch = lost.job.launch.number
        world.launcher.states["first"] = ExecutionState.FAILED
        world.services.sweep()
        assert world.services.shared.read("sweeps/jobs") is None, name
        is_read = name in ("whole", "of a newer version")  # no job is behind that position
        assert lost.job.launch.number == launch + (not is_read), name
        world.services.store.update(lost.job_id, lambda job: (job.model_copy(update={"relaunches": 0}), ()))
        world.services.control.claim(lost.job_id, Claim(launch=lost.job.launch.number, execution="first"))


def test_many_deleted_jobs_are_looked_at_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemtune.services.cleanup.leftovers.CHECKED_PER_SWEEP", 2)
    job_ids = [world.submit(key=str(number)) for number in range(5)]
    for job_id in job_ids:
        world.services.cancel(job_id)
        world.services.delete(job_id)
        world.clock.advance(seconds=1)
    export, left = world.services.buckets.export, list[int]()
    for job_id in job_ids:
        export.write(f"jobs/{job_id}/late", b"")
    for _ in range(4):
        world.services.sweep()
        left.append(len(list(export.list("jobs/"))))
    assert left == [3, 1, 0, 0]
    export.write(f"jobs/{job_ids[0]}/late", b"")
    for _ in range(3):  # the first one begins with the third job
        world.services.sweep()
    assert not list(export.list("jobs/"))


def test_expired_tombstones_are_dropped_in_parts_as_long_as_there_is_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, job_ids = world.services.store, [world.submit(key=str(number)) for number in range(5)]
    for job_id in job_ids:
        world.services.cancel(job_id)
        world.services.delete(job_id)
    world.clock.advance(days=31)
    drop = type(store).drop_tombstones

    def slow(self: Any, now: Any, *, limit: int) -> int:
        """Take five seconds for each tombstone."""
        dropped = drop(self, now, limit=limit)
        world.clock.advance(seconds=5 * dropped)
        return dropped

    monkeypatch.setattr(type(store), "drop_tombstones", slow)
    monkeypatch.setattr("gemtune.services.cleanup.leftovers.CHECKED_PER_SWEEP", 2)
    left = []
    for _ in range(2):
        world.services.sweep()
        left.append(sum(store.was_deleted(job_id) for job_id in job_ids))
    assert left == [1, 0]  # the second call of the first sweep ends after PART_SECONDS
