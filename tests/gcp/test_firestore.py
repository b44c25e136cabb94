"""Firestore behaviour that the emulator does not check: indexes and reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import ServiceUnavailable
from google.cloud.firestore_v1.services.firestore import FirestoreClient

import gemtune.gcp
from gemtune.gcp.firestore_documents import EVENTS, JOBS, KEYS, document_of
from gemtune.gcp.firestore_store import FirestoreStore
from gemtune.jobs import changes, launches
from gemtune.jobs.status import Status
from tests.emulators.world import GcpWorld
from tests.unit.jobs.test_job import NOW, new

pytestmark = pytest.mark.emulators

INDEXES = json.loads((Path(gemtune.gcp.__file__).parent / "firestore_indexes.json").read_text())["indexes"]


@pytest.fixture
def store(world: GcpWorld) -> FirestoreStore:
    assert isinstance(world.services.store, FirestoreStore)
    return world.services.store


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record every structured query with the number of documents it reads."""
    recorded: list[Any] = []
    run = FirestoreClient.run_query

    def watched(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        request = kwargs.get("request") or args[0]
        recorded.append([request["structured_query"], 0])
        index = len(recorded) - 1
        for answer in run(self, *args, **kwargs):
            recorded[index][1] += "document" in answer
            yield answer

    monkeypatch.setattr(FirestoreClient, "run_query", watched)
    return recorded


def use_every_query(store: FirestoreStore) -> None:
    for status in (None, Status.QUEUED):
        for modality in (None, "text"):
            page = store.page(status=status, modality=modality, limit=1, page_token=None)
            store.page(status=status, modality=modality, limit=1, page_token=page.next_page_token)
    list(store.unfinished())
    store.children_in_need("training_0")
    list(store.unpublished())
    store.events("training_0", after=0)
    list(store.tombstones(until_after=NOW))
    store.drop_tombstones(NOW, limit=10)


def required_index(query: Any) -> tuple[str, list[tuple[str, str]]] | None:
    """Return the composite index that a query needs, with its fields in order.

    Equality fields come before those that order the results. None means that the automatic single-field indexes
    suffice.
    https://firebase.google.com/docs/firestore/query-data/index-overview
    """
    where = query.where
    filters = list(where.composite_filter.filters) if "composite_filter" in where else ([where] if where else [])
    equal = [
        (f.field_filter.field.field_path, "ASCENDING") for f in filters if f.field_filter.op.name in ("EQUAL", "IN")
    ]
    ordered = [(order.field.field_path, order.direction.name) for order in query.order_by]
    # An index ends in the document's name, in the direction of its last field, without saying so.
    if ordered and ordered[-1] == ("__name__", ordered[-2][1] if len(ordered) > 1 else "ASCENDING"):
        ordered.pop()
    fields = [*equal, *[(path, direction) for path, direction in ordered if path not in dict(equal)]]
    return (query.from_[0].collection_id, fields) if len(fields) > 1 else None


def declared_indexes() -> list[tuple[str, list[tuple[str, str]]]]:
    return [(i["collection"], [(f["field_path"], f["order"]) for f in i["fields"]]) for i in INDEXES]


def has_index(index: tuple[str, Sequence[tuple[str, str]]]) -> bool:
    """Return whether a required index is declared."""
    collection, fields = index
    return any(
        declared_collection == collection and list(declared_fields) == list(fields)
        for declared_collection, declared_fields in declared_indexes()
    )


def test_every_query_has_its_index_and_every_index_its_query(store: FirestoreStore, queries: list[Any]) -> None:
    for number in range(2):
        job, (event,) = changes.accept_job(new(job_id=f"training_{number}"))
        store.create(job, event)
    queries.clear()
    use_every_query(store)
    needs = [need for query, _ in queries if (need := required_index(query)) is not None]
    assert len(queries) == 14
    assert [need for need in needs if not has_index(need)] == []
    assert [index for index in declared_indexes() if not any(list(need[1]) == list(index[1]) for need in needs)] == []


def test_a_page_of_two_thousand_jobs_costs_a_page_of_reads(store: FirestoreStore, queries: list[Any]) -> None:
    batch = store._client.bulk_writer()
    for number in range(2000):
        status = "failed" if number % 3 == 0 else "completed"
        modality = "vision" if number % 2 else "text"
        at = NOW + timedelta(seconds=number)
        job = new(job_id=f"training_{number:04}", created_at=at, status=status, modality=modality)
        batch.create(store._documents.job(job.job_id), document_of(job))
    batch.close()
    for status, modality in ((None, None), (Status.FAILED, None), (Status.FAILED, "vision"), (None, "text")):
        queries.clear()
        token, count = None, 0
        for _ in range(6):
            page = store.page(status=status, modality=modality, limit=50, page_token=token)
            count += len(page.jobs)
            token = page.next_page_token
        assert count == 300
        assert {read for _, read in queries} == {51}  # one more than a page, to know whether there is a next one


def test_a_drop_of_tombstones_reads_no_more_of_them_than_its_limit(store: FirestoreStore, queries: list[Any]) -> None:
    writer = store._client.bulk_writer()
    for number in range(500):
        writer.create(store._documents.tombstone(f"training_{number:03}"), {"until": NOW, "key_hash": f"hash{number}"})
        writer.create(store._documents.key(f"hash{number}"), {"job_id": f"training_{number:03}"})
    writer.close()
    assert [store.drop_tombstones(NOW, limit=200) for _ in range(4)] == [200, 200, 100, 0]
    assert [read for _, read in queries] == [200, 200, 100, 0]
    assert list(store._client.collection(KEYS).limit(1).stream()) == []


def test_a_write_whose_answer_was_lost_is_not_applied_twice(
    store: FirestoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, (event,) = changes.accept_job(new())
    store.create(job, event)
    lose_first_answer(monkeypatch)
    change = partial(launches.relaunch, at=NOW, lease_until=NOW, cause="x")
    assert store.update(job.job_id, change).launch.number == 1
    assert store.get(job.job_id).launch.number == 1
    assert [event.seq for event in store.events(job.job_id)] == [1, 2]


def lose_first_answer(monkeypatch: pytest.MonkeyPatch, *, between: Callable[[], None] = lambda: None) -> None:
    """Apply the first commit but lose its answer, so the client retries it."""
    commit, lost = FirestoreClient.commit, []

    def commit_losing_answer(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = commit(self, *args, **kwargs)
        if not lost:
            lost.append(True)
            between()
            return commit(self, *args, **kwargs)
        return answer

    monkeypatch.setattr(FirestoreClient, "commit", commit_losing_answer)


def test_a_create_whose_answer_was_lost_is_recognized_as_ours(
    store: FirestoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the caller would take back the job's spec and secrets."""
    job, (event,) = changes.accept_job(new(idempotency_key="k"))
    lose_first_answer(monkeypatch)
    assert store.create(job, event).is_new
    another, (event,) = changes.accept_job(
        new(job_id="training_y", idempotency_key="k", spec_name="specs/another.json")
    )
    assert not store.create(another, event).is_new


def test_a_retried_write_is_recognized_as_ours_after_other_writes(
    store: FirestoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, (event,) = changes.accept_job(new())
    store.create(job, event)
    lose_first_answer(monkeypatch, between=lambda: store.mark_published(job.job_id, 1))
    assert store.update(job.job_id, partial(changes.cancel_job, at=NOW)).status == "cancelled"
    assert [event.seq for event in store.events(job.job_id)] == [1, 2]


def test_an_outage_raises_at_once_without_retries(store: FirestoreStore, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[Any] = []

    def unavailable(*args: Any, **kwargs: Any) -> Any:
        commits.append(kwargs)
        raise ServiceUnavailable("away")

    monkeypatch.setattr(FirestoreClient, "commit", unavailable)
    job, (event,) = changes.accept_job(new())
    with pytest.raises(ServiceUnavailable):
        store.create(job, event)
    assert len(commits) == 1  # the caller decides whether to retry


def test_a_stored_event_has_an_expiry_which_readers_do_not_see(store: FirestoreStore) -> None:
    job, (event,) = changes.accept_job(new(job_id="training_0"))
    store.create(job, event)
    document = store._client.collection(JOBS).document(job.job_id).collection(EVENTS).document("1").get().to_dict()
    assert document is not None
    assert document["expire_at"] == event.at + timedelta(days=400)
    assert store.events(job.job_id) == [event]
