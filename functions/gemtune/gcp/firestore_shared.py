"""Shared documents on Firestore.

    shared/{name}   {name, body}: the text is in `body`

A slash in a name becomes a colon, because it would separate collections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

from google.cloud import firestore
from google.cloud.firestore_v1.base_query import FieldFilter

from gemtune.gcp.firestore_documents import Snapshot
from gemtune.gcp.firestore_writes import CALL_SECONDS, retry_conflicts

COLLECTION = "shared"


class FirestoreSharedDocuments:
    """`ports.SharedDocuments` on Firestore, written with preconditions."""

    def __init__(self, project_id: str):
        self._project_id = project_id

    @cached_property
    def _client(self) -> firestore.Client:
        return firestore.Client(project=self._project_id)

    def read(self, name: str) -> str | None:
        """Return a document's text, or None."""
        return _body(self._document(name).get(timeout=CALL_SECONDS))

    def update(self, name: str, change: Callable[[str | None], str | None]) -> str | None:
        """Change a document, again if another writer comes in between."""

        def attempt() -> str | None:
            """Read, decide and write once; raises on a conflict."""
            reference = self._document(name)
            snapshot = reference.get(timeout=CALL_SECONDS)
            before = _body(snapshot)
            after = change(before)
            if after == before:
                return before
            if not snapshot.exists:
                reference.create(_fields(name, after), timeout=CALL_SECONDS)
                return after
            unchanged = self._client.write_option(last_update_time=snapshot.update_time)
            if after is None:
                reference.delete(option=unchanged, timeout=CALL_SECONDS)
            else:
                reference.update(_fields(name, after), option=unchanged, timeout=CALL_SECONDS)
            return after

        return retry_conflicts(attempt)

    def names(self, prefix: str, *, before: str | None = None) -> Iterator[str]:
        """Yield the names that begin with `prefix` and precede `before`."""
        end = prefix + "\uffff" if before is None else before
        query = self._client.collection(COLLECTION).where(filter=FieldFilter("name", ">=", prefix))
        query = query.where(filter=FieldFilter("name", "<", end)).order_by("name").select(["name"])
        yield from [snapshot.get("name") for snapshot in query.stream(timeout=CALL_SECONDS)]

    def _document(self, name: str) -> firestore.DocumentReference:
        return self._client.collection(COLLECTION).document(name.replace("/", ":"))


def _body(snapshot: Snapshot) -> str | None:
    """Return the text of a document, or None if it does not exist.

    The text of a document without one is empty, which its readers treat like any other damage.
    """
    if not snapshot.exists:
        return None
    body = (snapshot.to_dict() or {}).get("body")
    return body if isinstance(body, str) else ""


def _fields(name: str, body: str | None) -> dict[str, str | None]:
    return {"name": name, "body": body}
