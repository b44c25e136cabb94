"""Errors of the platform that mean: wait."""

from __future__ import annotations

import pytest

from gemtune.admission.platform import PlatformError, waiting_reason

OPERATION = ("OperationError",)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PlatformError("Quota exceeded for GPU allocation", 9, OPERATION), "quota"),
        (PlatformError("HTTP server responded with error code 429", 429, ("HttpError",)), "quota"),
        (PlatformError("RESOURCE_EXHAUSTED: try later", None, OPERATION), "quota"),
        (PlatformError("x", 8, OPERATION), "quota"),
        (PlatformError("failed precondition: due to quota restrictions", 9, OPERATION), "quota"),
        (PlatformError("There is no available GPU capacity in us-central1-a", 9, OPERATION), "capacity"),
        (PlatformError("Insufficient capacity for nvidia-l4", 9, OPERATION), "capacity"),
        (PlatformError("the requested resources are not available", 9, OPERATION), "capacity"),
        (PlatformError("x", 503, ("HttpError",)), "capacity"),
        (PlatformError("x", 14, OPERATION), "capacity"),
        (PlatformError("timed out", None, ("TimeoutError",)), "pending"),
        (PlatformError("the instance was ended for host maintenance", 9, OPERATION), "maintenance"),
        (PlatformError("task exited with 1", 9, OPERATION), None),
        (PlatformError("The container failed to start", 9, OPERATION), None),
        (PlatformError("gemtune-train-l4 not found", 404, ("HttpError",)), None),
        (PlatformError("Memory limit of 32768 MiB exceeded", 9, OPERATION), None),
        (PlatformError("gemtune-train-local-x ended with exit code -9", None, OPERATION), None),
        (None, None),
    ],
)
def test_only_what_the_platform_lacks_is_waited_for(error: PlatformError | None, reason: str | None) -> None:
    assert waiting_reason(error, has_begun=False) == reason
    assert waiting_reason(error, has_begun=True) == (reason if reason == "maintenance" else None)
