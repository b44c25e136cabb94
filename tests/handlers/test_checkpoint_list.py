"""`GET /jobs/{id}/checkpoints`, on every backend."""

from __future__ import annotations

import json
from typing import Any

import flask.testing
import pytest

from gemtune import bootstrap
from gemtune.ports import Objects
from gemtune.training_files.checkpoint_names import MANIFEST, place_of
from tests.fakes import World
from tests.handlers.conftest import embedded_only


def save(export: Objects, job_id: str, train_step: int, *, attempt: int = 1, content: bytes = b"weights") -> str:
    """Write a checkpoint of one file; return its prefix."""
    prefix = place_of(f"jobs/{job_id}", attempt=attempt, train_step=train_step).prefix
    export.write(f"{prefix}/optimizer.pt", content)
    listed = [{"name": "optimizer.pt", "bytes": len(content)}]
    export.write(f"{prefix}/{MANIFEST}", json.dumps({"files": listed}).encode())
    return prefix


def log(export: Objects, job_id: str, *entries: dict[str, Any]) -> None:
    export.write(f"jobs/{job_id}/metrics/1.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries).encode())


def listed(api: flask.testing.FlaskClient, job_id: str) -> list[dict[str, Any]]:
    answer = api.get(f"/jobs/{job_id}/checkpoints")
    assert answer.status_code == 200, answer.json
    return list((answer.json or {})["checkpoints"])


def test_complete_checkpoints_are_listed_with_their_evaluations(
    api: flask.testing.FlaskClient, backend: World, services: bootstrap.Services
) -> None:
    job_id, export = backend.submit(), services.buckets.export
    assert listed(api, job_id) == []
    save(export, job_id, 5)
    save(export, job_id, 10)
    save(export, job_id, 10, attempt=2, content=b"of the second attempt")
    save(export, job_id, 15)
    export.write(place_of(f"jobs/{job_id}", attempt=2, train_step=20).prefix + "/optimizer.pt", b"being saved")
    log(
        export,
        job_id,
        {"train_step": 5, "loss": 3.0},
        {"train_step": 5, "eval_loss": 2.0, "perplexity": 7.4},
        {"train_step": 10, "eval_loss": 1.5},
        {"train_step": 12, "eval_loss": 0.1},
    )
    checkpoints = listed(api, job_id)
    assert [(each["train_step"], each["attempt"], each["is_best"]) for each in checkpoints] == [
        (15, 1, False),
        (10, 2, True),
        (5, 1, False),
    ]
    losses = [each["metrics"] and each["metrics"]["eval_loss"] for each in checkpoints]
    assert losses == [None, 1.5, 2.0]
    assert checkpoints[1]["bytes"] > len(b"of the second attempt")
    assert api.get("/jobs/nothing/checkpoints").status_code == 404


@embedded_only
@pytest.mark.parametrize(
    ("entries", "best"),
    [
        ([{"train_step": 5, "reward": 0.2}, {"train_step": 10, "reward": 0.4, "rewards/has_e": 0.4}], 10),
        ([{"train_step": 5, "eval_loss": 1.0}, {"train_step": 10, "eval_loss": 1.0}], 5),
        ([{"train_step": 5, "accuracy": 1.0}, {"train_step": 10, "eval_loss": "not a number"}], None),
    ],
)
def test_the_best_one_is_told_as_the_training_tells_it(
    api: flask.testing.FlaskClient,
    backend: World,
    services: bootstrap.Services,
    entries: list[dict[str, Any]],
    best: int | None,
) -> None:
    job_id, export = backend.submit(), services.buckets.export
    for train_step in (5, 10):
        save(export, job_id, train_step)
    log(export, job_id, *entries)
    assert [each["train_step"] for each in listed(api, job_id) if each["is_best"]] == ([] if best is None else [best])


@embedded_only
@pytest.mark.parametrize("manifest", [b"{", b"[]", b'{"files": [{"name": "gone", "bytes": 1}]}', b'{"files": 1}'])
def test_a_checkpoint_that_is_damaged_or_being_deleted_is_left_out(
    api: flask.testing.FlaskClient, backend: World, services: bootstrap.Services, manifest: bytes
) -> None:
    job_id, export = backend.submit(), services.buckets.export
    save(export, job_id, 5)
    export.write(f"{save(export, job_id, 10)}/{MANIFEST}", manifest)
    assert [each["train_step"] for each in listed(api, job_id)] == [5]
