"""Count of the documents that this process reads from Firestore."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from google.cloud.firestore_v1.services.firestore import FirestoreClient

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
