"""Recovery after kill -9 of the trainer, of the server, and of both.

Nothing is lost, nothing is trained twice, and the events stay complete.
"""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from tests.e2e.service import Service

LONG = {"max_steps": 40, "save_steps": 5}


def test_a_killed_trainer_resumes_from_its_checkpoint(service: Service, request_of: Any) -> None:
    job_id = service.submit(request_of(**LONG))
    service.wait_until(job_id, lambda job: job["steps"]["train"]["checkpoint"] >= 10, seconds=240)
    (trainer,) = service.trainers()
    trainer.kill()
    job = service.completed(job_id)
    assert job["steps"]["train"]["attempt"] == 2
    curve = [m["train_step"] for m in service.client.get(f"/jobs/{job_id}/metrics").json()["metrics"] if "loss" in m]
    assert curve == list(range(1, 41))


@pytest.mark.parametrize("with_trainers", [False, True], ids=["server_only", "server_and_trainer"])
def test_a_server_killed_at_random_moments_loses_nothing(
    service: Service, request_of: Any, with_trainers: bool
) -> None:
    rng = random.Random(7)
    job_id = service.submit(request_of(**LONG))
    for _ in range(5):
        time.sleep(rng.uniform(0.2, 4.0))  # a power cut does not wait for any particular state
        service.kill(with_trainers=with_trainers)
        # At most one process per step; that of a finished step may still be exiting when the next server continues.
        commands = [process.cmdline() for process in service.trainers()]
        steps = [command[command.index("trainer") + 1] for command in commands]
        assert len(steps) == len(set(steps))
        assert not (with_trainers and steps)
        service.start()
    job = service.completed(job_id)
    events = service.events(job_id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events].count("job_completed") == 1
    if not with_trainers:  # the new server adopted each step's child, so no step began twice
        assert {step["attempt"] for step in job["steps"].values()} == {1}
    curve = [m["train_step"] for m in service.client.get(f"/jobs/{job_id}/metrics").json()["metrics"] if "loss" in m]
    assert curve == list(range(1, 41))
