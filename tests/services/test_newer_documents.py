"""Documents of newer versions beside the records of jobs.

This version keeps what it does not know.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from gemtune.admission.slots import SlotTable
from gemtune.checks.record import CheckRecord, record_name
from gemtune.datasets.uploads.errors import DatasetUnreadable
from gemtune.datasets.uploads.record import DatasetRecord
from gemtune.datasets.uploads.record import record_name as dataset_record
from gemtune.jobs.record import Job
from gemtune.jobs.status import Step
from gemtune.machines.throughput import Observation
from gemtune.request.uploads.dataset import DatasetUpload
from gemtune.services.budgets.account import AccountPage
from tests.fakes import World
from tests.handlers.conftest import embedded_only
from tests.services.test_running import Running
from tests.unit.jobs.newer_records import LATER, filled, later_fields, merged, parts_of
from tests.unit.jobs.test_job import NOW

pytestmark = embedded_only  # both backends hold these documents as texts

CONTENT = b"{}\n"
FILE = {"path": "train.jsonl", "bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}


def rewrite(world: World, name: str, addition: Mapping[str, Any]) -> None:
    """Add to a shared document as a newer version would."""
    documents = world.services.shared
    documents.update(name, lambda body: json.dumps(merged(json.loads(body or "{}"), addition)))


def document(world: World, name: str) -> dict[str, str]:
    return dict(later_fields(json.loads(world.services.shared.read(name) or "{}")))


def names(*models: type[BaseModel]) -> set[str]:
    return {part.__name__ for model in models for part in parts_of(model)}


def test_the_table_of_slots_keeps_fields_of_entries_that_are_renewed(world: World) -> None:
    slots = world.services.slots
    holder, waiter = Running(world).job, Running(world).job
    for job in (holder, waiter):
        slots.ask(job, "l4", launch=1)
    rewrite(world, "slots/l4", {"holders": [], "waiting": [], LATER: {"in": "SlotTable"}})
    table = json.loads(world.services.shared.read("slots/l4") or "")
    for entry, kind in ((table["holders"][0], "Holder"), (table["waiting"][0], "Waiter")):
        entry[LATER] = {"in": kind}
    world.services.shared.update("slots/l4", lambda body: json.dumps(table))
    world.clock.advance(minutes=2)
    for job in (holder, waiter):
        slots.ask(job, "l4", launch=2, seconds=60)
    assert set(document(world, "slots/l4").values()) == names(SlotTable)
    assert [each.launch for each in slots.table("l4").holders] == [2]
    assert [each.asked_at for each in slots.table("l4").waiting] == [world.clock.now()]


def test_an_account_keeps_fields_of_a_job_that_is_entered_again(world: World) -> None:
    running = Running(world)
    prepare = running.job.steps[Step.PREPARE].model_copy(update={"seconds": 5.0})
    job: Job = running.job.model_copy(update={"steps": {**running.job.steps, Step.PREPARE: prepare}})
    world.services.budgets.enter(job)
    (name,) = world.services.shared.names("accounts/")
    rewrite(world, name, filled(AccountPage) | {"jobs": {job.job_id: {LATER: {"in": "Amount"}}}})
    before = document(world, name)
    assert set(before.values()) == names(AccountPage)
    longer = prepare.model_copy(update={"seconds": 9.0})
    world.services.budgets.enter(job.model_copy(update={"steps": {**job.steps, Step.PREPARE: longer}}))
    assert document(world, name) == before
    assert AccountPage.model_validate_json(world.services.shared.read(name) or "").jobs[job.job_id].seconds == 9


def test_measured_speeds_keep_fields_of_earlier_observations(world: World) -> None:
    speeds = world.services.planner.speeds
    rewrite(world, "throughput/l4", {"train x": [filled(Observation)]})
    speeds.record("l4", "train x", Observation(tokens=1, seconds=1))
    assert set(document(world, "throughput/l4").values()) == {"Observation"}


CHANGES: Mapping[str, Callable[[World, str], Any]] = {
    "renamed": lambda world, dataset: world.services.upload_dataset.begin(
        DatasetUpload.model_validate({"name": "other", "files": [FILE]})
    ),
    "completed": lambda world, dataset: world.services.upload_dataset.complete(dataset),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_record_of_a_dataset_keeps_its_unknown_fields(world: World, change: str) -> None:
    uploads, data = world.services.upload_dataset, world.services.buckets.data
    dataset = uploads.begin(DatasetUpload.model_validate({"name": "n", "files": [FILE]})).dataset_id
    uploads.store_part(dataset, 0, 0, CONTENT)
    stored = json.loads(data.read(dataset_record(dataset)))
    newer = filled(DatasetRecord) | {"files": [{**stored["files"][0], LATER: {"in": "DatasetFile"}}]}
    data.write(dataset_record(dataset), json.dumps(newer | {"ready_at": None, "dataset_id": dataset}).encode())
    CHANGES[change](world, dataset)
    written = json.loads(data.read(dataset_record(dataset)))
    assert set(dict(later_fields(written)).values()) == names(DatasetRecord)
    assert (written["name"], written["ready_at"] is None) == (("other", True) if change == "renamed" else ("x", False))


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{}", b"[" * 9999, b'{"name": "\\ud800"}'])
def test_an_unreadable_record_of_a_dataset_is_listed_and_deleted(world: World, content: bytes) -> None:
    uploads, catalogue, data = world.services.upload_dataset, world.services.datasets, world.services.buckets.data
    upload = DatasetUpload.model_validate({"name": "n", "files": [FILE]})
    dataset = uploads.begin(upload).dataset_id
    data.write(dataset_record(dataset), content)
    for call in (catalogue.describe, uploads.complete):
        with pytest.raises(DatasetUnreadable, match=dataset):
            call(dataset)
    with pytest.raises(DatasetUnreadable):
        uploads.begin(upload)
    listed, _ = catalogue.page(after=None, limit=9)
    assert [(each.dataset_id, each.is_ready) for each in listed] == [("chats", True), (dataset, False)]
    catalogue.delete(dataset)
    assert uploads.begin(upload).name == "n"


def test_a_check_whose_task_is_of_a_newer_version_is_still_shown(world: World) -> None:
    fields = {"check_id": "check_1", "dataset_id": "chats", "created_at": str(NOW), "task": {"later": 1}}
    with pytest.raises(ValidationError):
        CheckRecord.model_validate_json(json.dumps(fields))
    world.services.buckets.data.write(record_name("chats", "check_1"), json.dumps(fields).encode())
    state = world.services.check_dataset.read("chats", "check_1")
    assert (state.record.check_id, state.status) == ("check_1", "failed")
