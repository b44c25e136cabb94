"""A client that is generated from the OpenAPI document runs a job."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import flask.testing
import functions_framework
import pytest

from gemtune.jobs.parts.metrics import Progress
from gemtune.jobs.parts.results import Artifact
from gemtune.jobs.record import Claim
from gemtune.jobs.status import STEPS, Step
from tests.fakes import World
from tests.handlers.conftest import MAIN
from tests.handlers.generated_client import GeneratedClient

ROWS = b'{"prompt": "a", "completion": "b"}\n' * 20


@pytest.fixture
def http(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[flask.testing.FlaskClient]:
    monkeypatch.setattr("gemtune.bootstrap.services", lambda: world.services)
    client = functions_framework.create_app(target="api", source=str(MAIN)).test_client()
    client.environ_base["HTTP_HOST"] = "127.0.0.1:8080"
    return client


@pytest.fixture
def client(http: flask.testing.FlaskClient) -> GeneratedClient:
    document = http.get("/openapi.json").json
    assert document is not None
    return GeneratedClient(document, http)


def run_steps(world: World, job_id: str) -> None:
    """Do what the workflow and the trainer do, without training."""
    services = world.services
    services.dispatch.launch(job_id)
    claim = Claim(launch=1, execution="first")
    services.control.claim(job_id, claim)
    for step in STEPS:
        begun = services.advance.begin(job_id, step, claim, execution=f"gemtune-{step}-abcde")
        assert begun is not None
        name = f"jobs/{job_id}/logs/gemtune-{step}-abcde.log"
        services.buckets.export.write(name, f"{step} works\n".encode())
        if step is Step.TRAIN:
            progress = Progress(train_step=1, total_steps=1, loss=0.5)
            services.advance.heartbeat(job_id, begun[1], progress)
            services.buckets.export.write(f"jobs/{job_id}/metrics/1.jsonl", b'{"train_step": 1, "loss": 0.5}\n')
        if step is Step.EXPORT:
            uri = f"jobs/{job_id}/export/1/adapter.bin"
            services.buckets.export.write(uri, b"1")
            artifact = Artifact(name="adapter.bin", uri=uri, bytes=1, sha256=hashlib.sha256(b"1").hexdigest())
            services.advance.record_artifacts(job_id, begun[1], [artifact])
        services.advance.finish(job_id, begun[1])


def uploaded(client: GeneratedClient) -> str:
    """Upload rows in the parts that the service asks for; return the dataset."""
    file = {"path": "train.jsonl", "bytes": len(ROWS), "sha256": hashlib.sha256(ROWS).hexdigest()}
    dataset = client.upload_dataset(body={"name": "rows", "files": [file]})
    size = dataset["part_bytes"]
    for number, parts in dataset["missing_parts"].items():
        for part in parts:
            content = ROWS[part * size : (part + 1) * size]
            client.upload_part(dataset_id=dataset["dataset_id"], file=int(number), part=part, body=content)
    assert client.complete_dataset(dataset_id=dataset["dataset_id"])["status"] == "ready"
    return str(dataset["dataset_id"])


def test_a_generated_client_runs_a_job_from_its_rows_to_its_result(world: World, client: GeneratedClient) -> None:
    dataset_id = uploaded(client)
    training = {"base_model_id": "google/gemma-3-270m-it", "method": "LoRA", "max_steps": 1}
    request: dict[str, Any] = {"processed_dataset_id": dataset_id, "job_name": "generated", "training_config": training}
    assert client.train(body=request, dry_run="true")["plan"]["machine"] == "local"
    job_id = client.train(body=request, Idempotency_Key="once")["job_id"]
    assert client.train(body=request, Idempotency_Key="once")["job_id"] == job_id
    assert [job["job_id"] for job in client.list_jobs(status="queued", limit=10)["jobs"]] == [job_id]
    client.pause(job_id=job_id)
    client.resume(job_id=job_id)
    run_steps(world, job_id)
    job = client.status(job_id=job_id)
    assert (job["status"], job["progress"]["loss"]) == ("completed", 0.5)
    assert client.events(job_id=job_id, after=0)["events"][-1]["status"] == "completed"
    assert client.metrics(job_id=job_id)["metrics"] == [{"train_step": 1, "loss": 0.5}]
    assert [line["text"] for line in client.logs(job_id=job_id)["lines"]] == [f"{step} works" for step in STEPS]
    (artifact,) = client.artifacts(job_id=job_id)["artifacts"]
    assert artifact["name"] == "adapter.bin"
    assert client.models()["published"]
    client.delete(job_id=job_id)
    client.delete_dataset(dataset_id=dataset_id)
    assert client.list_jobs()["jobs"] == []


def test_refusals_are_described_too(client: GeneratedClient) -> None:
    for call, arguments in (
        (client.status, {"job_id": "none"}),
        (client.train, {"body": {"processed_dataset_id": "none", "training_config": {"base_model_id": "a/b"}}}),
        (client.delete_dataset, {"dataset_id": "none"}),
    ):
        with pytest.raises(RuntimeError):
            call(**arguments)


def test_the_document_says_where_the_service_is_and_how_to_log_in(http: flask.testing.FlaskClient) -> None:
    document = http.get("/openapi.json").json
    assert document is not None
    assert document["servers"] == [{"url": "/", "description": "the service that this document comes from"}]
    assert document["components"]["securitySchemes"]["identity_token"]["scheme"] == "bearer"
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(operation["tags"] and operation["summary"] for operation in operations)
