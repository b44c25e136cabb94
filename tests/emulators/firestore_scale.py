"""Finished jobs in Firestore, and a count of the documents that are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from unittest import mock

from google.cloud import firestore
from google.cloud.firestore_v1.services.firestore import FirestoreClient

from gemtune.gcp.firestore_documents import JOBS, TOMBSTONES, document_of
from gemtune.jobs.status import Status
from tests.emulators.world import GcpWorld

# Calls of Firestore's client that read documents, by the field of an answer that holds one.
READS: Mapping[str, str] = {"run_query": "document", "batch_get_documents": "found"}


@dataclass
class Reads:
    """Number of documents that were read."""

    documents: int = 0


@contextmanager
def counted() -> Iterator[Reads]:
    """Count the documents that are read while the context is open."""
    reads = Reads()

    def counting(method: Callable[..., Any], field: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Iterator[Any]:
            for answer in method(*args, **options):
                reads.documents += field in answer
                yield answer

        return call

    with ExitStack() as patches:
        for name, field in READS.items():
            method = getattr(FirestoreClient, name)
            patches.enter_context(mock.patch.object(FirestoreClient, name, counting(method, field)))
        yield reads


def add_finished(world: GcpWorld, first: int, end: int) -> None:
    """Store finished jobs and traces of deleted ones, from number `first` on."""
    client, now = firestore.Client(project=world.project), world.clock.now()
    like = world.services.store.get(world.submit())
    world.services.cancel(like.job_id)
    world.services.fan_out(like.job_id)
    writer = client.bulk_writer()
    for number in range(first, end):
        status = Status.FAILED if number % 3 == 0 else Status.COMPLETED
        described = {"status": status, "created_at": now - timedelta(seconds=number), "published_seq": like.last_seq}
        job = like.model_copy(update={"job_id": f"training_finished-{number}", **described})
        writer.create(client.collection(JOBS).document(job.job_id), document_of(job))
        trace = {"until": now + timedelta(days=29, seconds=number), "key_hash": None}
        writer.create(client.collection(TOMBSTONES).document(f"training_deleted-{number}"), trace)
    writer.close()  # type: ignore[no-untyped-call]
