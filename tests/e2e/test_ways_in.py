"""One job by each way in, with a listener on job-status and a webhook."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from tests import rows
from tests.e2e.api import wait_for
from tests.e2e.service import Service
from tests.forking_python import ForkingPython
from tests.webhook_receiver import WebhookReceiver

MOVES = ["job_queued", "job_preparing", "job_training", "job_exporting", "job_completed"]


def loads_in_peft(adapter: str, base: str) -> bool:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    return any("lora_B" in name and bool(weight.abs().sum() > 0) for name, weight in model.named_parameters())


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    receiver = WebhookReceiver(500)
    yield receiver
    receiver.stop()


@pytest.fixture
def calling_service(tmp_path: Path, forking: ForkingPython) -> Iterator[Service]:
    """Yield a service that may call webhooks on this machine."""
    service = Service(tmp_path, forking)
    service.environment["GEMTUNE_WEBHOOKS_TO_LOOPBACK"] = "yes"
    with service:
        service.put_dataset("chats", rows.train_rows(32), rows.held_out_rows(8))
        yield service


def test_a_request_by_each_way_in_becomes_an_adapter_and_every_event_is_delivered(
    calling_service: Service, request_of: Any, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    service = calling_service
    # Subscribe first, so that no message is missed.
    assert service.cli("listen", "--subscription", "test", "--once").returncode == 0
    request = request_of(eval_strategy="epoch")
    base = request["training_config"]["base_model_id"]

    by_post = service.submit(request | {"hf_token": "hf_fakefakefake", "notify": {"webhook_url": receiver.url}})

    (tmp_path / "published.json").write_text(json.dumps(request | {"job_name": "published"}))
    assert service.cli("publish", str(tmp_path / "published.json")).returncode == 0

    upload = service.home / "uploads" / "dropped.job.yaml"
    upload.write_text(json.dumps(request | {"job_name": "dropped"}))  # JSON is YAML too
    answer = service.home / "uploads" / "dropped.accepted.json"
    wait_for(answer.exists, seconds=240, what="the answer next to the file")
    by_drop = json.loads(answer.read_text())["job_id"]

    def published() -> str | None:
        listed = service.client.get("/jobs").json()["jobs"]
        return next((job["job_id"] for job in listed if job["job_name"] == "published"), None)

    by_message = wait_for(published, seconds=240, what="the published job")
    for job_id in (by_post, by_message, by_drop):
        job = service.completed(job_id)
        assert loads_in_peft(job["adapter_path"], base)
        assert job["metrics"]["eval_loss"] < job["metrics"]["baseline"]["eval_loss"]
        assert [event["seq"] for event in service.events(job_id)] == list(range(1, len(service.events(job_id)) + 1))

    received: dict[str, list[dict[str, Any]]] = {}

    def all_received() -> bool:
        for line in service.cli("listen", "--subscription", "test", "--once").stdout.splitlines():
            message = json.loads(line)
            received.setdefault(message["job_id"], []).append(message)
        return (
            all(any(m["type"] == "job_completed" for m in messages) for messages in received.values())
            and len(received) == 3
        )

    wait_for(all_received, seconds=240, what="every job on job-status")
    for messages in received.values():
        firsts = {message["seq"]: message["type"] for message in messages}  # a message may come twice
        assert list(firsts) == sorted(firsts)
        assert [event_type for event_type in firsts.values() if event_type in MOVES] == MOVES
    check_webhooks(service, receiver)


def check_webhooks(service: Service, receiver: WebhookReceiver) -> None:
    """Check that a job's events were all sent to its webhook, and signed."""
    wait_for(lambda: "job_completed" in receiver.types(), seconds=240, what="the webhook")
    assert [event_type for event_type in receiver.types() if event_type in MOVES] == MOVES
    key = service.cli("webhook-key").stdout.strip()
    for headers, body in receiver.requests:
        assert Webhook(key).verify(body, headers)


def test_a_webhook_on_this_machine_is_refused_unless_the_setting_allows_it(service: Service, request_of: Any) -> None:
    request = request_of() | {"notify": {"webhook_url": "http://127.0.0.1:9/"}}
    refused = service.client.post("/train", json=request)
    assert (refused.status_code, refused.json()["problems"][0]["code"]) == (422, "bad_webhook_url")
    assert "GEMTUNE_WEBHOOKS_TO_LOOPBACK" in refused.text


def test_the_answer_to_a_broken_job_file_lists_every_error(service: Service) -> None:
    broken = {
        "processed_dataset_id": "nowhere",
        "training_config": {"base_model_id": "x"},
        "export_config": {"destination": "hfhub"},
    }
    (service.home / "uploads" / "broken.job.json").write_text(json.dumps(broken))
    answer = service.home / "uploads" / "broken.rejected.json"
    wait_for(answer.exists, seconds=240, what="the answer next to the file")
    codes = {problem["code"] for problem in json.loads(answer.read_text())["errors"]}
    assert codes == {"dataset_not_found", "bad_base_model", "missing_field"}


@pytest.mark.parametrize("place", ["body", "message", "file"])
def test_a_token_is_stored_in_no_file_but_its_secret(
    service: Service, request_of: Any, tmp_path: Path, place: str
) -> None:
    token = "hf_fakefakefakefake" + place
    request = request_of() | {"hf_token": token}
    if place == "body":
        job_id = service.submit(request)
        service.client.post(f"/jobs/{job_id}/cancel")
    elif place == "message":
        outside = tmp_path.parent / f"{tmp_path.name}-published.json"
        outside.write_text(json.dumps(request))
        service.cli("publish", str(outside))
    else:
        upload = service.home / "uploads" / "open.job.json"
        upload.write_text(json.dumps(request))
        wait_for((service.home / "uploads" / "open.rejected.json").exists, seconds=240, what="the answer")
        upload.unlink()
    service.stop()
    holding = [path for path in service.home.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    assert all(path.parent.name == "secrets" for path in holding), holding
