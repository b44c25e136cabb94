"""A cap in hours with real processes, of which one is killed."""

from __future__ import annotations

from typing import Any

from tests.e2e.api import wait_for
from tests.e2e.service import Service

# Tiny train_steps, of which there are far more than the cap allows.
ENDLESS = {"max_steps": 1_000_000, "save_steps": 20}
HOUR = 3600.0
# A train_step of the tiny model and a checkpoint, on a busy machine.
BEYOND = 20.0


def test_a_training_is_paused_at_its_cap_after_its_trainer_was_killed(service: Service, request_of: Any) -> None:
    job_id = service.submit(request_of(**ENDLESS) | {"max_hours": 100})
    service.wait_until(job_id, lambda job: job["steps"]["train"]["checkpoint"] > 0, seconds=240)
    (trainer,) = service.trainers()
    trainer.kill()
    service.wait_until(job_id, lambda job: job["steps"]["train"]["attempt"] == 2, seconds=240)
    service.cli("pause", job_id)
    job = service.wait_until(job_id, lambda job: job["status"] == "paused", seconds=240)
    assert sum(attempt["seconds"] for attempt in job["steps"]["train"]["attempts"]) < job["spent"]["hours"] * HOUR
    cap = job["spent"]["hours"] * HOUR + 15.0
    assert service.cli("resume", job_id, "--max-hours", str(cap / HOUR)).returncode == 0
    job = service.wait_until(job_id, lambda job: job["status"] == "paused", seconds=240)
    assert (job["status"], job["pause"]["reason"]) == ("paused", "cost_cap"), service.logs(job_id)
    assert job["steps"]["train"]["attempts"][-1]["cause"] == "cost_cap"
    assert job["spent"]["hours"] * HOUR < cap + BEYOND
    assert f"at most {cap / HOUR:g} hours" in service.cli("status", job_id).stdout
    wait_for(lambda: not service.trainers(), seconds=60, what="the trainer's exit")
    refused = service.cli("resume", job_id)
    assert (refused.returncode, "cap_reached" in refused.stderr) == (1, True), refused.stderr
    assert f"`gemtune resume {job_id[-12:]} --max-hours` above" in refused.stderr
    assert service.status(job_id)["status"] == "paused"
    service.cli("cancel", job_id)
