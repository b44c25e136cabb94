"""Translates CloudEvents to calls of services. Returning acknowledges; raising asks for the event again."""

from __future__ import annotations

import base64
import logging
import re
from typing import Any

from cloudevents.http import CloudEvent

from gemtune.bootstrap import Services

log = logging.getLogger(__name__)

EVENT_DOCUMENT = re.compile(r"(?:^|/)training_jobs/(?P<job_id>[^/]+)/events/[^/]+$")


def dispatch(event: CloudEvent, services: Services) -> None:
    """A message of job-requests. Its key is the attribute Idempotency-Key, or else its topic and message id."""
    message = event.data["message"]
    attributes = message.get("attributes") or {}
    key = attributes.get("Idempotency-Key") or attributes.get("idempotency_key")
    if key is None:
        key = f"{event['source'].rpartition('/')[2]}/{event['id']}"
    services.dispatch(base64.b64decode(message.get("data") or ""), key=key, owner=services.settings.service_owner)


def notify(event: CloudEvent, services: Services) -> None:
    """A message of webhooks."""
    services.notify(base64.b64decode(event.data["message"].get("data") or ""))


def ingest(event: CloudEvent, services: Services) -> None:
    """An object of the uploads or the data bucket was finalized."""
    stored: dict[str, Any] = event.data
    services.ingest(stored["bucket"], stored["name"], str(stored["generation"]), owner=services.settings.service_owner)


def fan_out(event: CloudEvent, services: Services) -> None:
    """A document `training_jobs/{job_id}/events/{seq}` was created. It is protobuf; the name says all we need, and is
    read from the document itself rather than from a header that a proxy could have changed."""
    from google.events.cloud.firestore import DocumentEventData

    document = DocumentEventData.deserialize(event.data).value.name
    found = EVENT_DOCUMENT.search(document)
    if found is None:
        log.warning("not an event of a job: %s", document)
        return
    services.fan_out(found["job_id"])
