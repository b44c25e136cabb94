"""Signatures of webhooks, as https://www.standardwebhooks.com asks for: one key per service."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets as randomness
from collections.abc import Mapping
from datetime import datetime

from gemtune.ports import Secrets

# One key per service. Its form is the standard's: libraries that verify take it as it is.
KEY_NAME, KEY_PREFIX = "gemtune-webhook-key", "whsec_"


def key(secrets: Secrets) -> str:
    """The key of this service, made at its first use."""
    return secrets.create_once(KEY_NAME, KEY_PREFIX + base64.b64encode(randomness.token_bytes(32)).decode())


def signed_headers(key: str, *, event_id: str, at: datetime, body: bytes) -> Mapping[str, str]:
    """The headers that let a receiver know who sent `body`, and when: HMAC-SHA256 over `id.timestamp.body`."""
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
