"""Separate exports: they read the parent's weights and write only their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemtune.errors import StepError
from gemtune.jobs.record import Claim, Failure
from gemtune.jobs.sources import Source
from gemtune.jobs.status import Step
from gemtune.request.parsing import read_export
from gemtune.services.acceptance.create_job import Submission
from tests.trainer import hub_server
from tests.trainer.conftest import Bench
from tests.trainer.hub_server import READ_ONLY_TOKEN, TOKEN, Answer, HubServer
from trainer.context import Context
from trainer.hub import upload
from trainer.hub.refusals import TransientError
from trainer.steps import export, export_files
from trainer.store import manifest

TO_THE_HUB = {"export_config": {"destination": "hfhub", "hf_repo_id": "me/captain"}}


def export_again(bench: Bench, parent: str, **request: Any) -> Bench:
    """Turn the bench to a new job that exports what a job trained."""
    document = json.dumps({"export_config": {"format": "adapter"}} | request)
    child = bench.services.export_again(parent, Submission(read_export(document), Source.HTTP, "local"))
    bench.job_id, bench.claim = child.job_id, Claim(launch=1, execution="child")
    bench.services.dispatch.launch(child.job_id)
    assert bench.services.control.claim(child.job_id, bench.claim) is not None
    return bench


def with_secrets(context: Context) -> Context:
    return replace(context, secret=lambda role: context.advance.secret(context.job, role))


@pytest.fixture
def trained(bench_of: Callable[..., Bench]) -> Bench:
    return bench_of(max_steps=1).to(Step.EXPORT)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr(upload, "WAITS", ())
    with hub_server.serving(HubServer()) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        yield server


def test_a_separate_export_reads_the_parents_weights_without_training(trained: Bench) -> None:
    parent = trained.job
    child = export_again(trained, parent.job_id)
    child.run(Step.EXPORT)
    assert child.job.status == "completed"
    card = (Path(child.job.adapter_path or "") / "README.md").read_text()
    assert f"trained by gemtune as job `{parent.job_id}` and exported as job `{child.job_id}` on" in card
    assert "| rows trained on | 24 |" in card
    weights = [
        next(artifact.sha256 for artifact in job.artifacts if artifact.name == "adapter_model.safetensors")
        for job in (parent, child.job)
    ]
    assert weights[0] == weights[1]
    objects = trained.services.buckets.export
    assert {stat.name.split("/")[2] for stat in objects.list(f"jobs/{child.job_id}/")} == {"export"}
    trained.services.delete(parent.job_id)
    assert manifest.read_whole(objects, f"jobs/{child.job_id}/export/1") is not None


def test_an_export_survives_failures_of_the_hub(
    trained: Bench, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, objects = trained.job, trained.services.buckets.export
    refused = export_again(trained, parent.job_id, **TO_THE_HUB, hf_token=READ_ONLY_TOKEN)
    context = with_secrets(refused.context(Step.EXPORT))
    with pytest.raises(StepError) as caught:
        export.run(context)
    assert caught.value.code == "hub_forbidden"
    context.advance.fail(refused.job_id, context.fence, Failure(code="hub_forbidden", message="", step=Step.EXPORT))
    published = manifest.read_whole(objects, f"jobs/{refused.job_id}/export/1")
    assert published is not None
    assert refused.job.artifacts == tuple(published.artifacts)
    assert refused.job.adapter_path is None

    child = export_again(trained, refused.job_id, **TO_THE_HUB, hf_token=TOKEN)
    hub.queued["commit"] = [Answer(503)]
    with pytest.raises(TransientError):  # counts as a crash, so the step is retried
        export.run(with_secrets(child.context(Step.EXPORT)))
    assert len(hub.repositories["me/captain"].history) == 1
    sent = hub.count("put")
    monkeypatch.setattr(export_files, "write", None)  # a complete export is not written again
    export.run(with_secrets(child.context(Step.EXPORT)))
    repository = hub.repositories["me/captain"]
    assert (child.job.status, child.job.adapter_path) == ("completed", f"hf://me/captain@{repository.sha}")
    assert child.job.parent_job_id == parent.job_id
    assert hub.count("put") == sent
    for artifact in child.job.artifacts:
        path = Path(artifact.uri)
        differs = artifact.name in ("README.md", "adapter_config.json")  # on the Hub without the base model's path
        assert differs or repository.files[artifact.name] == path.read_bytes()
    assert "certificate.json" in repository.files
    assert "manifest.json" not in repository.files
    assert {artifact.uri.split("/")[-2] for artifact in child.job.artifacts} == {"1"}
    assert child.job.certificate is not None
    assert b"## Parity certificate" in repository.files["README.md"]
    assert TOKEN.encode() not in b"".join(repository.files.values())
