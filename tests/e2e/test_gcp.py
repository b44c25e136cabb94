"""The gcp backend end to end.

Independent client processes send a request each, and another one subscribes to what becomes of them.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.cloud import pubsub_v1
from standardwebhooks.webhooks import Webhook

from gemtune.jobs.events import Event
from gemtune.ports import Topic
from gemtune.services.notify import webhook_message
from tests import rows
from tests.e2e.api import wait_for
from tests.e2e.cloud_service import MODEL, CloudService
from tests.e2e.test_ways_in import MOVES, loads_in_peft
from tests.emulators.children import Child
from tests.emulators.cloud import BUCKETS, Cloud
from tests.emulators.google import PROJECT
from tests.emulators.sdk import NoEmulators
from tests.forking_python import ForkingPython
from tests.infra.calls import calls_without_grant, grants_without_call
from tests.infra.grants import TABLE
from tests.infra.wanted import FUNCTIONS
from tests.webhook_receiver import WebhookReceiver

pytestmark = pytest.mark.emulators

MIB = 1024**2
# Memory of a function by its peak in these tests: a live function also has the framework's gunicorn, of 50 MiB.
MEMORY_MARGIN = 1.3
PRODUCERS = Path(__file__).parent / "producers.py"
UPLOADS = BUCKETS["GCS_UPLOADS_BUCKET_NAME"]
TOKENS = {way: f"hf_fakefakefake{way}" for way in ("http", "message", "file")}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny: Path, forking: ForkingPython) -> Iterator[CloudService]:
    try:
        folder, settings = tmp_path_factory.mktemp("cloud"), {"GEMTUNE_WEBHOOKS_TO_LOOPBACK": "yes"}
        cloud = Cloud(folder, settings, forking=forking)
    except NoEmulators as error:
        pytest.skip(str(error))
    with cloud:
        service = CloudService(cloud)
        service.put_dataset("chats", rows.train_rows(32), rows.held_out_rows(8))
        service.put_model(tiny)
        yield service


@pytest.fixture(scope="module")
def request_of(request_of: Any) -> Any:
    """Return a factory of requests for the tiny model in its bucket."""
    return lambda **training: request_of(base_model_id=MODEL, **training)


def run_producer(service: CloudService, *arguments: str) -> str:
    command = [sys.executable, str(PRODUCERS), *arguments]
    completed = subprocess.run(
        command, env=service.environment | {"PATH": ""}, capture_output=True, text=True, timeout=240
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.strip()


@pytest.fixture(scope="module")
def listener(service: CloudService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a function that lists what a subscriber process received."""
    run_producer(service, "subscribe", "outsider")
    log = tmp_path_factory.mktemp("listener") / "messages.jsonl"
    child = Child("listener", [sys.executable, str(PRODUCERS), "listen", "outsider"], log, service.environment)
    yield lambda: [json.loads(line) for line in log.read_text().splitlines(True) if line[0] + line[-1] == "{\n"]
    child.stop()


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    receiver = WebhookReceiver(500, 302, 404)
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def job_ids(
    service: CloudService,
    request_of: Any,
    listener: Any,
    receiver: WebhookReceiver,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """Return the completed job of each way in: http, message and file.

    The one by http has a token and a webhook.
    """
    folder, request = tmp_path_factory.mktemp("requests"), request_of(eval_strategy="epoch")
    job_ids = {"http": service.submit(request | {"hf_token": TOKENS["http"], "notify": {"webhook_url": receiver.url}})}
    (folder / "published.json").write_text(json.dumps(request | {"job_name": "published"}))
    run_producer(service, "publish", str(folder / "published.json"))
    (folder / "dropped.job.yaml").write_text(json.dumps(request | {"job_name": "dropped"}))
    run_producer(service, "upload", UPLOADS, "in/dropped.job.yaml", str(folder / "dropped.job.yaml"))
    job_ids["file"] = ingest_answer(service, "in/dropped.accepted.json")["job_id"]
    job_ids["message"] = wait_for(lambda: job_named(service, "published"), seconds=240, what="the published job")
    for job_id in job_ids.values():
        service.completed(job_id)
    wait_for(
        lambda: {m["key"] for m in listener() if m["body"]["type"] == "job_completed"} == set(job_ids.values()),
        seconds=240,
        what="every job on job-status",
    )
    return job_ids


@pytest.mark.parametrize("way", ["http", "message", "file"])
def test_a_request_by_each_way_in_becomes_an_adapter_and_a_subscriber_gets_every_event(
    service: CloudService, job_ids: dict[str, str], listener: Any, tmp_path: Path, tiny: Path, way: str
) -> None:
    job_id = job_ids[way]
    job = service.status(job_id)
    assert job["metrics"]["eval_loss"] < job["metrics"]["baseline"]["eval_loss"]
    assert job["adapter_path"].startswith(f"gs://{BUCKETS['GCS_EXPORT_BUCKET_NAME']}/jobs/{job_id}/")
    assert loads_in_peft(str(download(service, job["adapter_path"], tmp_path / job_id)), str(tiny))
    seqs = [event["seq"] for event in service.events(job_id)]
    assert seqs == list(range(1, len(seqs) + 1))
    curve = service.client.get(f"/jobs/{job_id}/metrics").json()["metrics"]
    assert [entry["train_step"] for entry in curve if "loss" in entry] == list(range(1, 13))
    received = [message for message in listener() if message["key"] == job_id]
    firsts = {message["body"]["seq"]: message["body"]["type"] for message in received}
    assert list(firsts) == seqs
    assert [event_type for event_type in firsts.values() if event_type in MOVES] == MOVES
    assert {message["attributes"]["job_id"] for message in received} == {job_id}
    assert {message["attributes"]["modality"] for message in received} == {"text"}


def ingest_answer(service: CloudService, name: str) -> Any:
    """Wait for the file with which `ingest` answers a job file, and return it."""
    blob = wait_for(lambda: service.bucket("uploads").get_blob(name), seconds=240, what=name)
    return json.loads(blob.download_as_bytes())


def job_named(service: CloudService, name: str) -> str | None:
    listed = service.client.get("/jobs").json()["jobs"]
    return next((job["job_id"] for job in listed if job["job_name"] == name), None)


def download(service: CloudService, uri: str, into: Path) -> Path:
    bucket, _, prefix = uri.removeprefix("gs://").partition("/")
    into.mkdir()
    for blob in service.storage.list_blobs(bucket, prefix=prefix.rstrip("/") + "/"):
        blob.download_to_filename(str(into / blob.name.rpartition("/")[2]))
    return into


def test_a_webhook_gets_every_event_signed_and_retried_until_it_is_accepted(
    service: CloudService, job_ids: dict[str, str], receiver: WebhookReceiver
) -> None:
    wait_for(lambda: "job_completed" in receiver.types(), seconds=240, what="the webhook")
    assert [event_type for event_type in receiver.types() if event_type in MOVES] == MOVES
    key = service.cli("webhook-key").stdout.strip()
    for headers, body in receiver.requests:
        assert Webhook(key).verify(body, headers)


def test_delivering_every_message_again_and_in_reverse_changes_nothing(
    service: CloudService, job_ids: dict[str, str], listener: Any
) -> None:
    def records() -> Any:
        jobs = service.client.get("/jobs").json()["jobs"]
        return [(service.status(job["job_id"]), service.events(job["job_id"])) for job in jobs]

    before, executions = records(), service.cloud.workflows.count()
    received = {(message["key"], message["body"]["seq"]) for message in listener()}
    requests = service.cloud.messages(Topic.JOB_REQUESTS)
    assert len(requests) == 3
    for message in [*reversed(requests), *requests]:
        assert service.push("dispatch", Topic.JOB_REQUESTS, message) == 200
    events = list(service.cloud.relay.sent)
    assert {function for function, _, _ in events} == {"fan_out", "ingest"}
    for function, headers, body in reversed(events):
        assert service.cloud.relay.send(function, headers, body) in (200, 204)
    service.cloud.sweep()
    assert (records(), service.cloud.workflows.count()) == (before, executions)
    assert {(message["key"], message["body"]["seq"]) for message in listener()} == received


def test_a_platform_without_quota_makes_a_job_wait(service: CloudService, request_of: Any) -> None:
    service.cloud.cloud_run.quota_errors = 1
    job_id = service.submit(request_of(max_steps=2))
    waiting = service.wait_until(job_id, lambda job: bool(job["waiting"]), seconds=240)["waiting"]
    assert (waiting["machine"], waiting["position"]) == ("prepare", 0)  # its reason changes within a second here
    job = service.completed(job_id)
    assert [len(step["attempts"]) for step in job["steps"].values()] == [1, 1, 1]
    assert job["plan"]["exact"]
    assert job["plan_error"] is not None
    events = service.events(job_id)
    assert [event["type"] for event in events[:4]] == ["job_queued", "job_waiting", "job_admitted", "job_preparing"]
    assert events[1]["details"] == {"machine": "prepare", "position": 0, "reason": "quota"}


def test_a_webhook_that_is_never_accepted_becomes_a_dead_letter(service: CloudService) -> None:
    """Send one message only: each refusal delays the emulator's next push."""
    receiver = WebhookReceiver(*[500] * 1000)
    topic = f"projects/{PROJECT}/topics/webhooks"
    event = Event(job_id="training_x", seq=1, type="job_queued", status="queued", at=datetime.now(UTC))
    letters: list[Any] = []
    with pubsub_v1.SubscriberClient() as subscriber, pubsub_v1.PublisherClient() as publisher:
        dead = f"projects/{PROJECT}/subscriptions/dead"
        subscriber.create_subscription(name=dead, topic=f"{topic}-dead")
        pull = subscriber.subscribe(dead, lambda message: (letters.append(message), message.ack()))
        publisher.publish(topic, webhook_message(receiver.url, event)).result(timeout=240)
        wait_for(lambda: letters, seconds=240, what="the dead letter")
        pull.cancel()
    receiver.stop()
    assert json.loads(letters[0].data)["event"]["job_id"] == "training_x"
    assert letters[0].attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"
    assert len(receiver.requests) == 5


def test_a_token_is_in_nothing_that_gemtune_writes(
    service: CloudService, job_ids: dict[str, str], request_of: Any, listener: Any, tmp_path: Path
) -> None:
    for way, name in (("message", "message.json"), ("file", "file.job.json")):
        (tmp_path / name).write_text(json.dumps(request_of() | {"hf_token": TOKENS[way]}))
    run_producer(service, "publish", str(tmp_path / "message.json"), f"key-{TOKENS['message']}")
    run_producer(service, "upload", UPLOADS, "file.job.json", str(tmp_path / "file.job.json"))
    assert ingest_answer(service, "file.rejected.json")["errors"][0]["code"] == "secret_in_the_open"
    received_types = lambda: {message["attributes"]["type"] for message in listener()}  # noqa: E731
    wait_for(lambda: "job_rejected" in received_types(), seconds=240, what="the rejection")
    wait_for(lambda: not _job_secrets(service), seconds=240, what="the deletion of the secret")
    # The user wrote these two, so they may hold a token.
    service.bucket("uploads").blob("file.job.json").delete()
    requests = [
        message for message in service.cloud.messages(Topic.JOB_REQUESTS) if TOKENS["message"].encode() in message.data
    ]
    assert [dict(message.attributes) for message in requests] == [{"Idempotency-Key": f"key-{TOKENS['message']}"}]
    service.cloud.messages(Topic.JOB_REQUESTS).remove(requests[0])
    written = service.everything_written() + json.dumps(listener())
    assert job_ids["http"] in written
    for token in TOKENS.values():
        assert token not in written


def _job_secrets(service: CloudService) -> list[str]:
    return [name for name in service.cloud.secret_manager.names() if name.startswith("gemtune-job-")]


def test_cancelling_in_training_ends_the_task_and_the_workflow(service: CloudService, request_of: Any) -> None:
    job_id = service.submit(request_of(max_steps=400) | {"hf_token": "hf_fakefakefake"})
    service.wait_until(job_id, lambda job: job["status"] == "training" and job["progress"], seconds=240)
    execution = service.status(job_id)["steps"]["train"]["execution"]
    assert service.client.post(f"/jobs/{job_id}/cancel").status_code == 202
    wait_for(lambda: not service.cloud.cloud_run.running(), seconds=240, what="the end of the task")
    assert service.cloud.cloud_run.cancelled(execution)
    wait_for(lambda: not _job_secrets(service), seconds=240, what="the deletion of the secret")
    assert service.status(job_id)["status"] == "cancelled"
    assert service.events(job_id)[-1]["type"] == "job_cancelled"
    assert service.client.delete(f"/jobs/{job_id}").status_code == 200
    prefix = f"jobs/{job_id}/"
    assert list(service.storage.list_blobs(BUCKETS["GCS_EXPORT_BUCKET_NAME"], prefix=prefix)) == []


@pytest.mark.timeout(600)
def test_five_jobs_survive_killed_trainers_lost_workflows_and_a_dead_functions_server(
    service: CloudService, request_of: Any, listener: Any
) -> None:
    rng = random.Random(11)
    jobs = [service.submit(request_of(max_steps=24, save_steps=4, seed=number)) for number in range(5)]
    lost: set[str] = set()
    for _ in range(6):
        time.sleep(rng.uniform(1.0, 6.0))  # an outage does not wait for any particular state
        fault = rng.choice(["trainer", "workflow", "functions"])
        running = service.cloud.cloud_run.running()
        active = [name for name in service.cloud.workflows.active() if name not in lost]
        if fault == "trainer" and running:
            rng.choice(running).kill()
        elif fault == "workflow" and active:
            name = rng.choice(active)
            lost.add(name)
            service.cloud.workflows.lose(name)
        elif fault == "functions":
            service.cloud.kill_functions()
            time.sleep(rng.uniform(0.0, 2.0))
            service.cloud.serve_functions()
        service.cloud.sweep()
    assert lost

    def all_completed() -> bool:
        service.cloud.sweep()
        return all(service.status(job_id)["status"] == "completed" for job_id in jobs)

    wait_for(all_completed, seconds=600, what="every job", pause=2)
    for job_id in jobs:
        events = service.events(job_id)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert [event["type"] for event in events].count("train_done") == 1
        assert events[-1]["type"] == "job_completed"
        curve = service.client.get(f"/jobs/{job_id}/metrics").json()["metrics"]
        assert [entry["train_step"] for entry in curve if "loss" in entry] == list(range(1, 25))

    def sequence_numbers(job_id: str) -> list[int]:
        return list(dict.fromkeys(message["body"]["seq"] for message in listener() if message["key"] == job_id))

    for job_id in jobs:
        last = len(service.events(job_id))
        wait_for(lambda: sequence_numbers(job_id) == list(range(1, last + 1)), seconds=240, what="its events, in order")  # noqa: B023


# The last tests of this file: they judge the calls of all tests before them.
def test_every_call_has_a_grant(service: CloudService) -> None:
    """Compare with the table of grants, which Terraform's equal."""
    assert service.cloud.gateways.calls
    assert calls_without_grant(service.cloud.gateways.calls, TABLE) == []


def test_every_grant_has_a_call(service: CloudService, request: pytest.FixtureRequest) -> None:
    expected = {name for name in vars(request.module) if name.startswith("test_")}
    if not expected <= {getattr(item, "originalname", "") for item in request.session.items}:
        pytest.skip("other tests of this file make the calls, and some of them were deselected")
    assert grants_without_call(service.cloud.gateways.calls, TABLE) == []


def test_functions_have_memory_to_spare(service: CloudService) -> None:
    """Compare their peak with Terraform's values, which the table equals."""
    peaks = service.cloud.peak_memory()
    assert set(peaks) == {name.replace("-", "_") for name in FUNCTIONS}
    for name, size in FUNCTIONS.items():
        limit = {"512Mi": 512 * MIB, "1Gi": 1024 * MIB}[str(size["memory"])]
        assert peaks[name.replace("-", "_")] * MEMORY_MARGIN <= limit, (name, peaks)
