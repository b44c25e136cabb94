"""CloudEvents, each translated to a call of one service.

A handler that returns acknowledges its event; one that raises makes the platform deliver it again.
"""

from __future__ import annotations

import base64
import logging
import re
from typing import Any

from cloudevents.http import CloudEvent

from gemtune.bootstrap import Services
from gemtune.services.dispatch import message_key

log = logging.getLogger(__name__)

EVENT_DOCUMENT = re.compile(r"(?:^|/)training_jobs/(?P<job_id>[^/]+)/events/[^/]+$")


def dispatch(event: CloudEvent, services: Services) -> None:
    """Handle a message of the topic job-requests."""
    message = event.data["message"]
    key = message_key(message.get("attributes") or {}, event["source"].rpartition("/")[2], event["id"])
    services.dispatch(base64.b64decode(message.get("data") or ""), key=key, owner=services.settings.service_owner)


def notify(event: CloudEvent, services: Services) -> None:
    """Handle a message of the topic webhooks."""
    services.notify(base64.b64decode(event.data["message"].get("data") or ""))


def ingest(event: CloudEvent, services: Services) -> None:
    """Handle an object of the uploads or the data bucket that was finalized."""
    stored: dict[str, Any] = event.data
    services.ingest(stored["bucket"], stored["name"], str(stored["generation"]), owner=services.settings.service_owner)


def fan_out(event: CloudEvent, services: Services) -> None:
    """Handle a new document `training_jobs/{job_id}/events/{seq}`.

    The event is protobuf. Only the document's name is needed, which is read from the document itself, because a proxy
    could have changed the header.
    """
    from google.events.cloud.firestore import DocumentEventData

    document = DocumentEventData.deserialize(event.data).value.name
    match = EVENT_DOCUMENT.search(document)
    if match is None:
        log.warning("ignored a document that is not an event of a job: %s", document)
        return
    services.fan_out(match["job_id"])
