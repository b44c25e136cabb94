"""The gcp backend, end to end: three strangers send a request each, a fourth hears what becomes of them."""

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

from gemtune.events import Event
from gemtune.services.notify import message_of
from tests import rows
from tests.e2e.api import wait_for
from tests.e2e.cloud_service import MODEL, CloudService
from tests.e2e.test_ways_in import MOVES, loads_in_peft
from tests.emulators.children import Child
from tests.emulators.cloud import BUCKETS, Cloud
from tests.emulators.google import PROJECT
from tests.emulators.sdk import NoEmulators
from tests.webhook_receiver import WebhookReceiver

pytestmark = pytest.mark.emulators

PRODUCERS = Path(__file__).parent / "producers.py"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[CloudService]:
    try:
        cloud = Cloud(tmp_path_factory.mktemp("cloud"), {"GEMTUNE_WEBHOOKS_TO_LOOPBACK": "yes"})
    except NoEmulators as error:
        pytest.skip(str(error))
    with cloud:
        found = CloudService(cloud)
        found.put_dataset("chats", rows.train_rows(32), rows.held_out_rows(8))
        found.put_model(tiny)
        yield found


@pytest.fixture
def request_of(request_of: Any) -> Any:
    """A request for the tiny model in its bucket."""
    return lambda **training: request_of(base_model_id=MODEL, **training)


def stranger(service: CloudService, *arguments: str) -> str:
    command = [sys.executable, str(PRODUCERS), *arguments]
    ran = subprocess.run(command, env=service.environment | {"PATH": ""}, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.fixture
def listener(service: CloudService, tmp_path: Path) -> Iterator[Any]:
    """Everything that a subscriber process of its own has heard so far."""
    name = f"test-{tmp_path.name}"[:60].replace("_", "-")
    stranger(service, "subscribe", name)
    log = tmp_path / "heard.jsonl"
    child = Child("listener", [sys.executable, str(PRODUCERS), "listen", name], log, service.environment)
    yield lambda: [json.loads(line) for line in log.read_text().splitlines(True) if line[0] + line[-1] == "{\n"]
    child.stop()


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    found = WebhookReceiver()
    yield found
    found.stop()


def test_a_request_by_each_way_in_becomes_an_adapter_and_a_subscriber_hears_all_of_it(
    service: CloudService, request_of: Any, listener: Any, tmp_path: Path, tiny: Path
) -> None:
    request = request_of(eval_strategy="epoch")
    by_post = service.submit(request)
    (tmp_path / "published.json").write_text(json.dumps(request | {"job_name": "published"}))
    stranger(service, "publish", str(tmp_path / "published.json"))
    (tmp_path / "dropped.job.yaml").write_text(json.dumps(request | {"job_name": "dropped"}))
    stranger(
        service, "upload", BUCKETS["GCS_UPLOADS_BUCKET_NAME"], "in/dropped.job.yaml", str(tmp_path / "dropped.job.yaml")
    )
    answer = wait_for(
        lambda: service.bucket("uploads").get_blob("in/dropped.accepted.json"), seconds=20, what="the answer"
    )
    by_upload = json.loads(answer.download_as_bytes())["job_id"]
    by_message = wait_for(lambda: named(service, "published"), seconds=20, what="the published job")
    for job_id in (by_post, by_message, by_upload):
        job = service.completed(job_id)
        assert job["metrics"]["eval_loss"] < job["metrics"]["baseline"]["eval_loss"]
        assert job["adapter_path"].startswith(f"gs://{BUCKETS['GCS_EXPORT_BUCKET_NAME']}/jobs/{job_id}/")
        assert loads_in_peft(str(download(service, job["adapter_path"], tmp_path / job_id)), str(tiny))
        seqs = [event["seq"] for event in service.events(job_id)]
        assert seqs == list(range(1, len(seqs) + 1))
        curve = service.client.get(f"/jobs/{job_id}/metrics").json()["metrics"]
        assert [entry["train_step"] for entry in curve if "loss" in entry] == list(range(1, 13))

    def heard() -> dict[str, list[dict[str, Any]]]:
        by_job: dict[str, list[dict[str, Any]]] = {}
        for message in listener():
            by_job.setdefault(message["key"], []).append(message)
        return by_job

    ids = {by_post, by_message, by_upload}
    wait_for(
        lambda: {key for key, all in heard().items() if any(m["body"]["type"] == "job_completed" for m in all)} == ids,
        seconds=20,
        what="every job on job-status",
    )
    for job_id, messages in heard().items():
        firsts = {message["body"]["seq"]: message["body"]["type"] for message in messages}
        assert list(firsts) == list(range(1, len(firsts) + 1))
        assert [type for type in firsts.values() if type in MOVES] == MOVES
        assert {message["attributes"]["job_id"] for message in messages} == {job_id}
        assert {message["attributes"]["modality"] for message in messages} == {"text"}


def named(service: CloudService, name: str) -> str | None:
    listed = service.client.get("/jobs").json()["jobs"]
    return next((job["job_id"] for job in listed if job["job_name"] == name), None)


def download(service: CloudService, uri: str, into: Path) -> Path:
    bucket, _, prefix = uri.removeprefix("gs://").partition("/")
    into.mkdir()
    for blob in service.storage.list_blobs(bucket, prefix=prefix.rstrip("/") + "/"):
        blob.download_to_filename(str(into / blob.name.rpartition("/")[2]))
    return into


def test_a_webhook_hears_every_event_signed_and_again_until_it_takes_it(
    service: CloudService, request_of: Any, receiver: WebhookReceiver
) -> None:
    receiver.statuses = [500, 302, 404]
    job_id = service.submit(request_of() | {"notify": {"webhook_url": receiver.url}})
    service.completed(job_id)
    wait_for(lambda: "job_completed" in receiver.types(), seconds=30, what="the webhook")
    assert [type for type in receiver.types() if type in MOVES] == MOVES
    key = service.cli("webhook-key").stdout.strip()
    for headers, body in receiver.heard:
        assert Webhook(key).verify(body, headers)


def test_a_webhook_that_is_never_taken_becomes_a_dead_letter(service: CloudService, receiver: WebhookReceiver) -> None:
    """One message only: with each refusal the emulator waits longer before it pushes anything of the subscription."""
    receiver.statuses = [500] * 1000
    topic = f"projects/{PROJECT}/topics/webhooks"
    event = Event(job_id="training_x", seq=1, type="job_queued", status="queued", at=datetime.now(UTC))
    letters: list[Any] = []
    with pubsub_v1.SubscriberClient() as subscriber, pubsub_v1.PublisherClient() as publisher:
        dead = f"projects/{PROJECT}/subscriptions/dead"
        subscriber.create_subscription(name=dead, topic=f"{topic}-dead")
        hearing = subscriber.subscribe(dead, lambda message: (letters.append(message), message.ack()))
        publisher.publish(topic, message_of(receiver.url, event)).result(timeout=30)
        wait_for(lambda: letters, seconds=90, what="the dead letter")
        hearing.cancel()
    assert json.loads(letters[0].data)["event"]["job_id"] == "training_x"
    assert letters[0].attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"
    assert len(receiver.heard) == 5


def test_a_token_is_in_nothing_that_gemtune_writes(
    service: CloudService, request_of: Any, listener: Any, tmp_path: Path
) -> None:
    literal, published, uploaded = (f"hf_fakefakefake{way}" for way in ("http", "message", "file"))
    job_id = service.submit(request_of() | {"hf_token": literal})
    for token, name in ((published, "message.json"), (uploaded, "file.job.json")):
        (tmp_path / name).write_text(json.dumps(request_of() | {"hf_token": token}))
    stranger(service, "publish", str(tmp_path / "message.json"), f"key-{published}")
    bucket = BUCKETS["GCS_UPLOADS_BUCKET_NAME"]
    stranger(service, "upload", bucket, "file.job.json", str(tmp_path / "file.job.json"))
    answer = lambda: service.bucket("uploads").get_blob("file.rejected.json")  # noqa: E731
    rejected = wait_for(answer, seconds=20, what="the answer").download_as_bytes().decode()
    assert json.loads(rejected)["errors"][0]["code"] == "secret_in_the_open"
    types = lambda: {message["attributes"]["type"] for message in listener()}  # noqa: E731
    wait_for(lambda: "job_rejected" in types(), seconds=20, what="the rejection")
    service.completed(job_id)
    wait_for(lambda: "job_completed" in types(), seconds=20, what="the end")
    wait_for(lambda: not _job_secrets(service), seconds=20, what="the secret to go")
    service.bucket("uploads").blob("file.job.json").delete()  # the user wrote that one
    written = service.everything_written() + json.dumps(listener())
    assert job_id in written
    for token in (literal, published, uploaded):
        assert token not in written


def _job_secrets(service: CloudService) -> list[str]:
    return [name for name in service.cloud.secret_manager.names() if name.startswith("gemtune-job-")]


def test_cancel_in_training_ends_the_task_and_the_workflow(service: CloudService, request_of: Any) -> None:
    job_id = service.submit(request_of(max_steps=400) | {"hf_token": "hf_fakefakefake"})
    service.wait_until(job_id, lambda job: job["status"] == "training" and job["progress"], seconds=90)
    execution = service.status(job_id)["steps"]["train"]["execution"]
    assert service.client.post(f"/jobs/{job_id}/cancel").status_code == 202
    wait_for(lambda: not service.cloud.cloud_run.running(), seconds=20, what="the task to go")
    assert service.cloud.cloud_run.cancelled(execution)
    wait_for(lambda: not _job_secrets(service), seconds=20, what="the secret to go")
    assert service.status(job_id)["status"] == "cancelled"
    assert service.events(job_id)[-1]["type"] == "job_cancelled"
    assert service.client.delete(f"/jobs/{job_id}").status_code == 200
    prefix = f"jobs/{job_id}/"
    assert list(service.storage.list_blobs(BUCKETS["GCS_EXPORT_BUCKET_NAME"], prefix=prefix)) == []


@pytest.mark.timeout(600)
def test_five_jobs_survive_killed_trainers_lost_workflows_and_a_dead_functions_server(
    service: CloudService, request_of: Any, listener: Any
) -> None:
    chance = random.Random(11)
    jobs = [service.submit(request_of(max_steps=24, save_steps=4, seed=number)) for number in range(5)]
    lost: set[str] = set()
    for _ in range(6):
        time.sleep(chance.uniform(1.0, 6.0))  # an outage comes at no state of ours
        fault = chance.choice(["trainer", "workflow", "functions"])
        running = service.cloud.cloud_run.running()
        active = [name for name in service.cloud.workflows.active() if name not in lost]
        if fault == "trainer" and running:
            chance.choice(running).kill()
        elif fault == "workflow" and active:
            name = chance.choice(active)
            lost.add(name)
            service.cloud.workflows.lose(name)
        elif fault == "functions":
            service.cloud.kill_functions()
            time.sleep(chance.uniform(0.0, 2.0))
            service.cloud.serve_functions()
        service.cloud.sweep()
    assert lost

    def over() -> bool:
        service.cloud.sweep()
        return all(service.status(job_id)["status"] == "completed" for job_id in jobs)

    wait_for(over, seconds=300, what="every job")
    for job_id in jobs:
        events = service.events(job_id)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert [event["type"] for event in events].count("train_done") == 1
        assert events[-1]["type"] == "job_completed"
        curve = service.client.get(f"/jobs/{job_id}/metrics").json()["metrics"]
        assert [entry["train_step"] for entry in curve if "loss" in entry] == list(range(1, 25))

    def firsts(job_id: str) -> list[int]:
        return list(dict.fromkeys(message["body"]["seq"] for message in listener() if message["key"] == job_id))

    for job_id in jobs:
        last = len(service.events(job_id))
        wait_for(lambda: firsts(job_id) == list(range(1, last + 1)), seconds=30, what="its events, in order")  # noqa: B023
