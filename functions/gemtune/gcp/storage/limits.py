"""Timeout and retries of calls to Cloud Storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.api_core.retry import Retry

# Seconds without a response or a byte.
TIMEOUT = 60.0


def retry_policy() -> Retry:
    """Return the client's retry policy for idempotent calls.

    The client does not apply it to uploads without a precondition; ours can be repeated safely.
    """
    from google.cloud.storage.retry import DEFAULT_RETRY

    policy: Retry = DEFAULT_RETRY
    return policy
