"""Webhook signatures after the standard at https://www.standardwebhooks.com."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from secrets import token_bytes

from gemtune.ports import Secrets

# A service has one key. It is stored in the standard's format, which libraries that verify webhooks accept as it is.
KEY_NAME, KEY_PREFIX = "gemtune-webhook-key", "whsec_"


def service_key(store: Secrets) -> str:
    """Return this service's signing key; create it at the first use."""
    return store.create_once(KEY_NAME, KEY_PREFIX + base64.b64encode(token_bytes(32)).decode())


def signed_headers(key: str, *, event_id: str, at: datetime, body: bytes) -> Mapping[str, str]:
    """Return the headers by which a receiver verifies sender and time.

    The signature is HMAC-SHA256 over `id.timestamp.body`.
    """
    timestamp = str(int(at.timestamp()))
    signed = f"{event_id}.{timestamp}.".encode() + body
    digest = hmac.new(base64.b64decode(key.removeprefix(KEY_PREFIX)), signed, hashlib.sha256).digest()
    return {
        "Content-Type": "application/json",
        "User-Agent": "gemtune",
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
