"""Repairs of the sweep: each on its own, and none of a job that goes on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest

from gemtune.jobs.status import Step
from gemtune.ports import ExecutionState
from gemtune.request.uploads.dataset import DatasetUpload
from gemtune.services.datasets.upload import UploadDataset
from gemtune.services.fan_out import FanOut
from gemtune.services.machine_slots import MachineSlots
from tests.fakes import World
from tests.services.test_running import Running


class CountedReads:
    """Store or bucket that counts calls of its methods and their results."""

    def __init__(self, of: Any):
        self._of = of
        self.counts: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name)
        if not callable(value):
            return value

        def counted(*args: Any, **options: Any) -> Any:
            self.counts[name] += 1
            result = value(*args, **options)
            return self._counted(name, result) if isinstance(result, Iterator) else result

        return counted

    def _counted(self, name: str, results: Iterator[Any]) -> Iterator[Any]:
        for result in results:
            self.counts[f"results of {name}"] += 1
            yield result


def fail(*args: Any, **options: Any) -> Any:
    """Fail as a platform does that cannot be reached."""
    raise ConnectionError("no route")


def break_fan_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FanOut, "__call__", fail)


def break_slots(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MachineSlots, "machines", fail)


def break_secrets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(world.services.secrets), "list", fail)


def break_buckets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("list", "remove_unfinished"):
        monkeypatch.setattr(type(world.services.buckets.config), name, fail)


def break_tombstones(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(world.services.store), "drop_tombstones", fail)


def break_uploads(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UploadDataset, "in_progress", fail)


@pytest.mark.parametrize(
    "break_part", [break_fan_out, break_slots, break_secrets, break_buckets, break_tombstones, break_uploads]
)
def test_a_part_of_the_sweep_that_fails_leaves_the_repair_of_jobs_to_happen(
    world: World, monkeypatch: pytest.MonkeyPatch, break_part: Callable[[World, pytest.MonkeyPatch], None]
) -> None:
    lost = Running(world)
    world.launcher.states["first"] = ExecutionState.FAILED
    break_part(world, monkeypatch)
    world.services.sweep()
    assert world.launcher.started[-1] == (lost.job_id, 2)


def test_a_sweep_that_cannot_list_the_jobs_fails_after_its_other_parts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[str] = []
    monkeypatch.setattr(world.services.store, "unfinished", fail)
    monkeypatch.setattr(world.services.buckets.config, "remove_unfinished", lambda before: cleaned.append("config"))
    with pytest.raises(ConnectionError):
        world.services.sweep()
    assert cleaned == ["config"]


def test_a_job_that_cannot_be_repaired_does_not_stop_the_repair_of_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        Running(world)
    first, second = (job.job_id for job in world.services.store.unfinished())
    world.launcher.states["first"] = ExecutionState.FAILED
    start = world.launcher.start
    monkeypatch.setattr(
        world.launcher, "start", lambda job_id, launch: fail() if job_id == first else start(job_id, launch)
    )
    world.services.sweep()
    assert world.launcher.started[-1] == (second, 2)
    monkeypatch.undo()
    world.messages("requests")
    world.clock.advance(minutes=1)
    world.services.sweep()
    assert [message["job_id"] for message in world.messages("requests")] == [first]  # which launches it


def test_a_job_that_changes_while_it_is_examined_is_not_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step end when the platform just says that its workflow is gone."""
    running = Running(world)
    fence = running.begin(Step.PREPARE)

    def finished_meanwhile(execution: str) -> ExecutionState:
        world.services.advance.finish(running.job_id, fence)
        return ExecutionState.GONE

    monkeypatch.setattr(world.launcher, "state", finished_meanwhile)
    world.services.sweep()
    assert (running.job.launch.number, running.job.claim) == (1, running.claim)
    assert world.launcher.stopped == []


def test_a_replaced_execution_is_stopped_before_its_step(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the workflow first, since it would start the step again."""
    running, stopped = Running(world), list[str]()
    assert world.services.control.admit(running.job_id, running.claim, Step.PREPARE).verdict == "run"
    running.begin(Step.PREPARE)
    monkeypatch.setattr(world.launcher, "stop", lambda execution: stopped.append(execution))
    monkeypatch.setattr(world.launcher, "stop_step", lambda execution: stopped.append(execution))
    monkeypatch.setattr(world.launcher, "stop_steps", lambda job, job_id: stopped.append(job))
    monkeypatch.setattr(world.launcher, "start", lambda job_id, launch: stopped.append("start") or "next")
    world.launcher.states["first"] = ExecutionState.FAILED
    world.services.sweep()
    assert stopped == ["first", "run-prepare", "gemtune-prepare", "start"]


def test_the_secrets_of_a_waiting_job_are_renewed_once_a_day(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Running(world, hf_token="hf_fakefakefake")
    without_secrets = Running(world)
    renewed, secrets = list[str](), type(world.services.secrets)
    renew = secrets.renew

    def renew_and_note(self: Any, name: str, **options: Any) -> None:
        renewed.append(name)
        renew(self, name, **options)

    monkeypatch.setattr(secrets, "renew", renew_and_note)
    for _ in range(3 * 25 + 1):
        world.clock.advance(hours=1)
        world.services.sweep()
    assert len(renewed) == 3  # every 25 hours, since a sweep every hour comes that late at most
    assert set(renewed) == set(job.job.secret_names.values())
    assert without_secrets.job.secrets_renewed_at is None


def test_a_sweep_reads_as_much_after_many_jobs_and_datasets_as_after_few(world: World) -> None:
    services = world.services

    def reads() -> dict[str, dict[str, int]]:
        """Sweep, and return the numbers of reads by store and bucket."""
        store = CountedReads(services.store)
        buckets = {
            name: CountedReads(getattr(services.buckets, name))
            for name in [field.name for field in fields(services.buckets)]
        }
        counted = replace(services.buckets, **buckets)  # type: ignore[arg-type]
        slots = replace(services.slots, store=store)  # type: ignore[arg-type]
        leftovers = replace(services.sweep.leftovers, store=store, buckets=counted)  # type: ignore[arg-type]
        replace(services.sweep, store=store, slots=slots, leftovers=leftovers)()  # type: ignore[arg-type]
        return {name: dict(each.counts) for name, each in {"store": store, **buckets}.items()}

    Running(world)
    reads_after = []
    for finished in (1, 6):
        for number in range(finished):
            job_id = world.submit(key=f"{finished} {number}", hf_token="hf_fakefakefake")
            services.cancel(job_id)
            content = f"{finished} {number}".encode()
            file = {"path": "train.jsonl", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            dataset = services.upload_dataset.begin(DatasetUpload.model_validate({"files": [file]})).dataset_id
            services.upload_dataset.store_part(dataset, 0, 0, content)
            services.upload_dataset.complete(dataset)
        # Objects have their times from the machine's clock, not from the world's.
        newest = max(stat.updated_at for stat in services.buckets.config.list("new-specs/"))
        world.clock.time = max(world.clock.now(), newest) + timedelta(days=8)
        services.sweep()  # looks once at what is new
        reads_after.append(reads())
    assert reads_after[0] == reads_after[1]
    assert reads_after[0]["store"]["results of unfinished"] == 1
