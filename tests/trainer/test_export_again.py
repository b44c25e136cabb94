"""An export of its own, by the trainer: it reads what its parent trained, and writes below its own name."""

from __future__ import annotations

import json
from collections.abc import Callable

from gemtune.job import Claim, Step
from gemtune.request import read_export
from gemtune.services.create_job import Submission
from tests.trainer.conftest import Bench
from trainer import manifest


def again(bench: Bench) -> Bench:
    """The bench, turned to a new job that exports again what its job trained."""
    document = json.dumps({"export_config": {"format": "adapter"}})
    child = bench.services.export_again(bench.job_id, Submission(read_export(document), "http", "local"))
    bench.job_id, bench.claim = child.job_id, Claim(launch=1, execution="child")
    bench.services.dispatch.launch(child.job_id)
    assert bench.services.control.claim(child.job_id, bench.claim) is not None
    return bench


def test_what_was_trained_is_exported_again_without_training(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of(max_steps=1)
    parent = bench.to(Step.EXPORT).job
    child = again(bench)
    child.run(Step.EXPORT)
    assert child.job.status == "completed"
    weights = [
        next(artifact.sha256 for artifact in job.artifacts if artifact.name == "adapter_model.safetensors")
        for job in (parent, child.job)
    ]
    assert weights[0] == weights[1]
    export = bench.services.buckets.export
    assert {stat.name.split("/")[2] for stat in export.list(f"jobs/{child.job_id}/")} == {"export"}
    bench.services.delete(parent.job_id)
    assert manifest.read_whole(export, f"jobs/{child.job_id}/export/1") is not None
