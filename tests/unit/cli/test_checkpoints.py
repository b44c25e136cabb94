"""`gemtune checkpoints` against a fake service, and their completion."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.cli.test_cli import run
from tests.unit.cli.test_completion import completed
from tests.unit.conftest import FakeService

JOB = "training_d_m_0123456789ab"


def checkpoint(train_step: int, **more: Any) -> dict[str, Any]:
    body = {"train_step": train_step, "attempt": 1, "saved_at": "2026-11-30T08:00:00Z", "bytes": 12_345_678}
    return body | {"metrics": None, "is_best": False} | more


def serve(service: FakeService, *checkpoints: dict[str, Any]) -> None:
    service.answers["GET", f"/jobs/{JOB}/checkpoints"] = (200, {"checkpoints": list(checkpoints)})


def test_checkpoints_are_listed_with_their_metrics(service: FakeService) -> None:
    metrics = {"eval_loss": 1.23456, "accuracy": 0.5, "of_a_newer_service": 1}
    serve(service, checkpoint(20), checkpoint(10, metrics=metrics, is_best=True))
    lines = run("checkpoints", JOB, url=service.url).stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["20", "2026-11-30T08:00:00", "12.3", "MB"],
        ["10", "2026-11-30T08:00:00", "12.3", "MB", "eval_loss", "1.2346,", "accuracy", "0.5000", "best"],
    ]
    as_json = run("checkpoints", JOB, "--json", url=service.url).stdout
    assert [each["train_step"] for each in json.loads(as_json)["checkpoints"]] == [20, 10]


@pytest.mark.parametrize(("state", "words"), [("running", "has none yet"), ("done", "its training is finished")])
def test_a_job_without_checkpoints_says_why(service: FakeService, state: str, words: str) -> None:
    serve(service)
    service.answers["GET", f"/jobs/{JOB}/status"] = (200, {"steps": {"train": {"state": state}}})
    result = run("checkpoints", JOB, url=service.url)
    assert (result.exit_code, result.stdout, words in result.stderr) == (0, "", True)


def test_the_checkpoints_of_a_job_are_completed(service: FakeService) -> None:
    serve(service, checkpoint(120), checkpoint(40, is_best=True))
    assert completed("--url", service.url, "try", JOB, "--checkpoint", "") == ["120", "40", "best", "newest"]
    assert completed("--url", service.url, "try", JOB, "--checkpoint", "4") == ["40"]
    assert completed("--url", service.url, "try", "--checkpoint", "") == []
