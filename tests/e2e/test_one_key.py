"""Concurrent requests with one idempotency key."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.e2e.service import Service


def test_fifty_requests_with_one_key_become_one_job_with_one_token(service: Service, request_of: Any) -> None:
    def send(number: int) -> tuple[int, dict[str, Any]]:
        request = request_of() | {"hf_token": f"hf_fakefakefake{number:02d}"}
        if number % 5 == 0:
            request["job_name"] = "another request"
        answer = service.client.post("/train", json=request, headers={"Idempotency-Key": "once"})
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    accepted = {body["job_id"] for code, body in answers if code == 202}
    assert len(accepted) == 1
    assert sorted({code for code, _ in answers}) == [202, 409]
    secrets = list((service.home / "secrets").glob("gemtune-job-*"))
    assert len(secrets) == 1
    assert json.loads(secrets[0].read_text())["value"].startswith("hf_fakefakefake")
    assert len(list((service.home / "config" / "specs").glob("*.json"))) == 1
    (job_id,) = accepted
    service.wait_until(job_id, lambda job: job["status"] != "queued", seconds=240)
    assert len(service.client.get("/jobs").json()["jobs"]) == 1
    assert service.client.post(f"/jobs/{job_id}/cancel").status_code == 202
