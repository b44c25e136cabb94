"""Damage to any stored record: nothing else stops.

No answer is an internal error. The places are found in the stores themselves after a few jobs, so that a new kind of
record is damaged as well.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flask.testing
import pytest
from google.cloud import firestore

import gemtune.services
from gemtune.checks.record import results_folder
from gemtune.checks.task import REPORT
from gemtune.embedded.file_logs import FileLogs
from gemtune.handlers.endpoints import ENDPOINTS
from gemtune.jobs.parts.metrics import Metrics, Progress
from gemtune.jobs.parts.results import StepResult
from gemtune.jobs.status import Step
from gemtune.machines.throughput import Observation, Speed
from gemtune.request.uploads.dataset import DatasetUpload
from gemtune.services.cleanup.positions import Position
from tests.conftest import GCP
from tests.fakes import World, request
from tests.handlers.conftest import embedded_only
from tests.services.damage import damaged
from tests.services.test_newer_documents import CONTENT, FILE
from tests.services.test_running import Running
from tests.services.test_waiting import planned, verdict

# Columns of the database that are not damaged.
KEPT: Mapping[str, str] = {
    "jobs.created_at": "the store sets it from the record, and sorts by it",
    "jobs.status": "the store sets it from the record, and selects by it",
    "jobs.modality": "the store sets it from the record, and selects by it",
    "idempotency_keys.job_id": "a key's job; a job that does not exist is no job",
    "subscriptions.topic": "written once, with the schema",
    "subscriptions.path": "written once, with the schema",
    "messages.topic": "messages are in tests/unit/embedded: one that cannot be read becomes a dead letter",
    "messages.ordering_key": "as above",
    "messages.attributes": "as above",
    "messages.body": "as above",
    "deliveries.ordering_key": "as above",
    "tombstones.until": "compared as text; one that is no time is left out",
}
# Files that are not damaged, by the beginning of their names.
KEPT_FILES: Mapping[str, str] = {"gemtune.db": "the database itself"}


# Documents and files that `busy` stores.
KINDS = [
    "config/new-specs/JOB-3-270m-ID-ID.json",
    "config/specs/JOB-3-270m-ID-ID.json",
    "data/datasets/checks/ID/ID.json",
    "data/datasets/records/ID.json",
    "data/processed_datasets/ID/train.jsonl",
    "data/processed_datasets/chats/train.jsonl",
    "events.body",
    "export/checks/ID/ID/report.json",
    "export/jobs/JOB-3-270m-ID/logs/run-train.log",
    "export/jobs/JOB-3-270m-ID/metrics/1.jsonl",
    "jobs.record",
    "secrets/gemtune-job-JOB-3-270m-ID-hf_token-ID",
    "shared.body accounts/ID/ID/ID",
    "shared.body slots/local",
    "shared.body sweeps/jobs",
    "shared.body throughput/local",
]


@dataclass(frozen=True)
class Place:
    """A stored text. name: where it is. kind: its name without all ids."""

    name: str
    kind: str
    read: Callable[[], str]
    write: Callable[[str], None]


def rows_of(world: World) -> Iterator[Place]:
    """Yield every text in the database."""
    connection = world.services.database.read()
    tables = [row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in (name for name in tables if not name.startswith("sqlite_")):
        columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
        keys = [column["name"] for column in columns if column["pk"]]
        for row in connection.execute(f"SELECT * FROM {table}").fetchall():
            for column in columns:
                name, is_text = f"{table}.{column['name']}", column["type"] in ("TEXT", "BLOB")
                if column["pk"] or not is_text or name in KEPT or row[column["name"]] is None:
                    continue
                kind = f"{name} {without_ids(row['name'])}" if table == "shared" else name
                yield place_in(world, kind, table, column["name"], {key: row[key] for key in keys})


def place_in(world: World, kind: str, table: str, column: str, keys: Mapping[str, Any]) -> Place:
    where = " AND ".join(f"{key} = :{key}" for key in keys)

    def read() -> str:
        row = world.services.database.read().execute(f"SELECT {column} FROM {table} WHERE {where}", keys).fetchone()
        return str(row[column])

    def write(text: str) -> None:
        with world.services.database.write() as connection:
            connection.execute(f"UPDATE {table} SET {column} = :text WHERE {where}", {**keys, "text": text})

    return Place(str(keys), kind, read, write)


def files_of(world: World) -> Iterator[Place]:
    """Yield every file that the services have written."""
    home = world.services.settings.home
    for path in sorted(home.rglob("*")):
        name = path.relative_to(home).as_posix()
        if path.is_file() and not name.startswith(tuple(KEPT_FILES)):
            yield Place(name, without_ids(name), path.read_text, lambda text, path=path: write_file(path, text))


def write_file(path: Path, text: str) -> None:
    path.write_text(text)


def without_ids(name: str) -> str:
    return re.sub(r"[a-z]+_[0-9a-f]{8,}|[0-9a-f]{12,}|\d{4}-\d\d|(?<=/)\d$", "ID", re.sub(r"training_\w+", "JOB", name))


@dataclass(frozen=True)
class Ids:
    """Parts of paths of the API."""

    job_id: str
    dataset_id: str
    check_id: str


@pytest.fixture
def busy(backend: World, api: flask.testing.FlaskClient) -> tuple[list[Running], Ids]:
    """Fill the stores. Returns a job that trains, one that waits, and ids."""
    world, services = backend, backend.services
    done = Running(world, hf_token="hf_fakefakefake")
    done.complete()
    services.fan_out(done.job_id)
    deleted = Running(world)
    services.cancel(deleted.job_id)
    services.delete(deleted.job_id)
    first = planned(world, 60)
    world.clock.advance(seconds=1)
    second = planned(world, 60)
    assert (verdict(first), verdict(second)) == ("run", "wait")
    fence = first.begin(Step.TRAIN)
    world.clock.advance(seconds=5)
    services.advance.heartbeat(first.job_id, fence, Progress(train_step=7, loss=1.5))
    services.advance.record_checkpoint(first.job_id, fence, train_step=7)
    services.budgets.enter(first.job)
    services.planner.record(first.job, Step.PREPARE)
    third = Running(world, hf_token="hf_fakefakefake", notify={"webhook_url": "https://example.com/hook"})
    services.advance.finish(third.job_id, third.begin(Step.PREPARE), StepResult(metrics=Metrics()))
    dataset = services.upload_dataset.begin(DatasetUpload.model_validate({"name": "n", "files": [FILE]})).dataset_id
    services.upload_dataset.store_part(dataset, 0, 0, CONTENT)
    services.upload_dataset.complete(dataset)
    services.__dict__["check_runner"] = Runner()
    check = api.post(f"/datasets/{dataset}/check", json={"base_model_id": "google/gemma-3-270m-it"})
    assert check.status_code == 202, check.json
    ids = Ids(first.job_id, dataset, check.json["check_id"])  # type: ignore[index]
    services.planner.speeds.record("local", "train", Observation(tokens=1, seconds=1))
    position = Position(at=first.job.created_at, job_id=first.job_id)
    services.shared.update("sweeps/jobs", lambda _: position.model_dump_json())
    export = services.buckets.export
    losses = ({"train_step": step, "loss": 2.5} for step in (1, 2))
    export.write(f"jobs/{ids.job_id}/metrics/1.jsonl", "\n".join(map(json.dumps, losses)).encode())
    export.write(f"jobs/{ids.job_id}/logs/run-train.log", b"begins\n")
    export.write(results_folder(dataset, ids.check_id) + REPORT, b'{"rows": 1}')
    return [first, second], ids


class Runner:
    """Runner of checks that starts nothing."""

    def start(self, dataset_id: str, check_id: str) -> None:
        pass

    def is_running(self, dataset_id: str, check_id: str) -> bool:
        return True


def faults(world: World, api: flask.testing.FlaskClient, waiting: Running, ids: Ids, log: Any) -> Iterator[str]:
    """Yield what does not go on as it should."""
    for endpoint in ENDPOINTS:
        if endpoint.method == "GET" and endpoint.path != "/openapi.json":
            answer = api.get(endpoint.path.format(**vars(ids)))
            if answer.status_code not in {endpoint.success, *endpoint.refusals} - {500}:
                yield f"GET {endpoint.path}: {answer.status_code}"
    answer = api.post("/train", json=request(), query_string={"dry_run": "true"})
    if answer.status_code != 202:
        yield f"POST /train: {answer.status_code}"
    services = world.services
    calls: Mapping[str, tuple[Callable[[], object], object]] = {
        "admission of the next job": (lambda: verdict(waiting), "wait"),
        "estimate of a step": (lambda: services.planner.speeds.speed("local", "other", Speed(1, 1)), Speed(1, 1)),
        "budget": (lambda: services.budgets.is_spent(waiting.job.owner), False),
    }
    for name, (call, expected) in calls.items():
        try:
            if (value := call()) != expected:
                yield f"{name}: {value}"
        except Exception as error:
            yield f"{name}: {error!r}"
    services.sweep()
    yield from (record.getMessage() for record in log.records if "could not repair" in record.getMessage())


def places(world: World, ids: Ids) -> dict[str, Place]:
    """Return one stored text of each kind: of these ids, if there is one."""
    stored = sorted([*rows_of(world), *files_of(world)], key=lambda place: ids.job_id not in place.name)
    return {place.kind: place for place in reversed(stored)}


@embedded_only
def test_damage_in_any_place_is_no_internal_error_and_stops_nothing_else(
    backend: World,
    api: flask.testing.FlaskClient,
    busy: tuple[list[Running], Ids],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    (_, second), ids = busy
    stopped: dict[str, list[str]] = {}
    assert list(faults(backend, api, second, ids, caplog)) == []
    for kind, place in places(backend, ids).items():
        whole = place.read()
        for name, text in damaged(whole):
            caplog.clear()
            place.write(text)
            for fault in faults(backend, api, second, ids, caplog):
                stopped.setdefault(f"{kind}: {fault}", []).append(name)
            place.write(whole)
    assert stopped == {}


@embedded_only
def test_every_kind_of_record_is_among_the_places(backend: World, busy: tuple[list[Running], Ids]) -> None:
    """Notice a kind that would go undamaged: let `busy` write one."""
    assert sorted(places(backend, busy[1])) == KINDS
    prefixes = {
        prefix
        for path in Path(gemtune.services.__file__).parent.rglob("*.py")
        for prefix in re.findall(r'^PREFIX = "(.*)"$', path.read_text(), re.MULTILINE)
    }
    assert {f"{kind.split()[1].partition('/')[0]}/" for kind in KINDS if kind.startswith("shared.body ")} == prefixes


def documents_of(project: str, ids: Ids) -> dict[str, firestore.DocumentSnapshot[Any]]:
    """Return one document of each kind: of these ids, if there is one."""
    client = firestore.Client(project=project)
    documents = [each for collection in client.collections() for each in collection.stream()]
    documents += client.document(f"training_jobs/{ids.job_id}").collection("events").stream()
    documents.sort(key=lambda each: ids.job_id not in each.reference.path)
    return {each.reference.parent.id + each.id.split(":")[0] * (":" in each.id): each for each in reversed(documents)}


@pytest.mark.parametrize("backend", [GCP], indirect=True)
def test_damage_to_a_document_of_firestore_stops_nothing_else(
    backend: Any, api: flask.testing.FlaskClient, busy: tuple[list[Running], Ids], caplog: pytest.LogCaptureFixture
) -> None:
    """Damage the fields of documents.

    Both backends read the texts in them alike, and the test above damages those.
    """
    caplog.set_level(logging.ERROR)
    services = backend.services
    services.__dict__["logs"] = FileLogs(services.buckets.export)  # there is no emulator of Cloud Logging
    (_, second), ids = busy
    Running(backend, key="key of a job that trains")
    stopped: dict[str, list[str]] = {}
    documents = documents_of(backend.project, ids)
    assert list(faults(backend, api, second, ids, caplog)) == []
    kinds = {"training_jobs", "events", "idempotency_keys", "tombstones"}
    assert set(documents) == kinds | {f"shared{name}" for name in ("accounts", "slots", "sweeps", "throughput")}
    for kind, document in documents.items():
        whole = document.to_dict() or {}
        damages = {"empty": {}, "numbers": dict.fromkeys(whole, 7), "lists": {name: [] for name in whole}}
        for name, fields in damages.items():
            caplog.clear()
            document.reference.set(fields)
            for fault in faults(backend, api, second, ids, caplog):
                stopped.setdefault(f"{kind}: {fault}", []).append(name)
            document.reference.set(whole)
    assert stopped == {}


@pytest.mark.parametrize("backend", [GCP], indirect=True)
@pytest.mark.parametrize("damage", [{}, {"job_id": 7}, {"job_id": "a/b"}, {"job_id": "training_unknown"}], ids=str)
def test_a_damaged_key_does_not_keep_its_request_from_its_job(backend: Any, damage: dict[str, Any]) -> None:
    job_id = backend.submit("key")
    client = firestore.Client(project=backend.project)
    (key,) = client.collection("idempotency_keys").stream()
    key.reference.set(damage)
    assert backend.submit("key") == job_id
    client.recursive_delete(client.document(f"training_jobs/{job_id}"))
    assert backend.submit("key") == job_id
    assert key.reference.get().to_dict() == {"job_id": job_id}


@pytest.mark.parametrize("backend", [GCP], indirect=True)
def test_a_job_with_a_damaged_list_of_writes_is_cancelled_and_deleted(backend: Any, api: Any) -> None:
    job_id = backend.submit("key")
    client = firestore.Client(project=backend.project)
    client.document(f"training_jobs/{job_id}").update({"write_ids": 7})
    assert api.post(f"/jobs/{job_id}/cancel").status_code == 202
    assert api.delete(f"/jobs/{job_id}").status_code == 200
    client.document(f"tombstones/{job_id}").update({"key_hash": 7})
    backend.clock.advance(days=60)
    assert backend.services.store.drop_tombstones(backend.clock.now(), limit=10) == 1
