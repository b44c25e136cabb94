"""A damaged table of slots stops no queue, and admits no job too many."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from gemtune.admission import slots
from gemtune.admission.damaged_slots import rebuilt
from gemtune.admission.slots import Applicant, SlotTable
from gemtune.jobs.status import Step
from tests.fakes import World
from tests.services.damage import damaged
from tests.services.test_running import Running
from tests.services.test_waiting import prepared, verdict
from tests.unit.jobs.newer_records import LATER


def write(world: World, machine: str, body: str) -> None:
    world.services.shared.update(f"slots/{machine}", lambda _: body)


def test_the_table_is_rebuilt_from_the_records_of_jobs(world: World, caplog: pytest.LogCaptureFixture) -> None:
    machine, service = world.services.settings.machines[0], world.services.slots
    jobs: list[Running] = []
    for _ in range(3):
        world.clock.advance(seconds=1)  # the order of their acceptance
        jobs.append(prepared(world))
    first, second, third = jobs
    assert [verdict(each) for each in jobs] == ["run", "wait", "wait"]
    fence = first.begin(Step.TRAIN)
    whole = world.services.shared.read(f"slots/{machine}") or ""
    for name, body in damaged(whole):
        caplog.clear()
        write(world, machine, body)
        assert verdict(third) == "wait", name
        if name != "of a newer version":
            (line,) = {record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR}
            assert line == f"slots/{machine} is damaged, and is rebuilt from the records of jobs", name
        table = SlotTable.model_validate_json(world.services.shared.read(f"slots/{machine}") or "")
        assert [(each.job_id, each.launch) for each in table.holders] == [(first.job_id, 1)], name
        assert [each.job_id for each in table.waiting] == [second.job_id, third.job_id], name
        assert service.held_by(first.job_id, 1) == [machine], name
    write(world, machine, "?")
    first.services.advance.finish(first.job_id, fence)
    assert first.ended(Step.TRAIN) == "done"
    write(world, machine, "?")
    assert verdict(second) == "wait"  # the step of a job that has given up its slot could still be ending
    world.clock.advance(seconds=16)
    assert (verdict(third), verdict(second)) == ("wait", "run")


def test_the_sweep_goes_on_after_a_damaged_table(world: World, caplog: pytest.LogCaptureFixture) -> None:
    first, second = prepared(world), prepared(world)
    assert (verdict(first), verdict(second)) == ("run", "wait")
    machine = world.services.settings.machines[0]
    write(world, machine, "?")
    world.clock.advance(minutes=2)
    world.services.cancel(second.job_id)
    world.services.sweep()
    assert [each.job_id for each in world.services.slots.table(machine).holders] == [first.job_id]
    assert "could not repair" not in caplog.text


def test_entries_that_can_be_read_are_kept(world: World) -> None:
    machine, job = world.services.settings.machines[0], prepared(world)
    assert verdict(job) == "run"
    table = json.loads(world.services.shared.read(f"slots/{machine}") or "")
    table["holders"][0][LATER] = "kept"
    other = table["holders"][0] | {"job_id": "sft_other"}
    table["holders"] += [other, other | {"launch": "?"}, other | {"job_id": "x", "since": "2026-11-24T12:00:00"}]
    write(world, machine, json.dumps(table | {LATER: "kept"}))
    world.services.slots.leave("nobody", machine)
    written: dict[str, Any] = json.loads(world.services.shared.read(f"slots/{machine}") or "")
    assert [(each["job_id"], each[LATER]) for each in written["holders"]] == [
        (job.job_id, "kept"),
        ("sft_other", "kept"),
    ]
    assert written[LATER] == "kept"


def test_slots_whose_holders_no_record_names_stay_taken_until_their_steps_have_ended(world: World) -> None:
    at = world.clock.now()
    table = rebuilt("?", (), machine="l4", capacity=2, at=at)
    applicant = Applicant("sft_1", 1, at, "normal")
    assert len(table.holders) == 2
    assert slots.ask(table, applicant, capacity=2, at=at)[1] == 1
    world.clock.advance(seconds=16)
    later, position = slots.ask(table, applicant, capacity=2, at=world.clock.now())
    assert ([each.job_id for each in later.holders], position) == (["sft_1"], 0)


@pytest.mark.parametrize("state", ["done", "paused", "prepare"])
def test_only_jobs_with_a_slot_of_this_kind_hold_one(world: World, state: str) -> None:
    job = prepared(world)
    machine = world.services.settings.machines[0]
    assert verdict(job) == "run"
    fence = job.begin(Step.TRAIN)
    if state == "done":
        world.services.advance.finish(job.job_id, fence)
    elif state == "paused":
        world.services.pause(job.job_id)
        world.services.advance.stop(job.job_id, fence, cause="paused")
    kind = "prepare" if state == "prepare" else machine
    table = rebuilt("?", [job.job], machine=kind, capacity=0, at=world.clock.now())
    assert table == SlotTable(holders=(), waiting=())
