"""Cancelling a job in each status that can be cancelled."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.api import wait_for
from tests.e2e.service import Service


@pytest.mark.parametrize("status", ["queued", "preparing", "training"])
def test_a_cancelled_job_stays_cancelled_and_leaves_nothing_running(
    service: Service, request_of: Any, status: str
) -> None:
    request = request_of(max_steps=400) | {"hf_token": "hf_fakefakefakefake"}
    job_id = service.submit(request)
    service.wait_until(job_id, lambda job: job["status"] == status or status == "queued", seconds=240)
    assert service.client.post(f"/jobs/{job_id}/cancel").status_code == 202
    wait_for(lambda: not service.trainers(), seconds=240, what="the end of the trainer")
    wait_for(
        lambda: not list((service.home / "secrets").glob("gemtune-job-*")),
        seconds=240,
        what="the deletion of the secret",
    )
    job = service.status(job_id)
    assert job["status"] == "cancelled"
    assert service.events(job_id)[-1]["type"] == "job_cancelled"
    assert service.client.post(f"/jobs/{job_id}/cancel").status_code == 409
    assert service.client.delete(f"/jobs/{job_id}").status_code == 200
    assert service.client.get(f"/jobs/{job_id}/status").status_code == 404
