"""Events in the formats of production, and the reactions of the functions."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemtune.bootstrap import Services
from gemtune.ports import Topic
from tests.fakes import request
from tests.handlers.conftest import embedded_only

RECORDED = Path(__file__).parent.parent / "events"
PUSH_PATH = "/projects/local/topics/job-requests"


def envelope(message: bytes, **more: Any) -> dict[str, Any]:
    body = {"data": base64.b64encode(message).decode(), "messageId": "7", "publishTime": "2026-11-24T12:00:00Z"}
    return {"message": body | more, "subscription": "projects/p/subscriptions/dispatch"}


def jobs(services: Services) -> list[str]:
    return [job.job_id for job in services.store.unfinished()]


def test_a_raw_push_becomes_a_job_once(client_of: Any, services: Services) -> None:
    client = client_of("dispatch")
    for _ in range(3):
        assert client.post(PUSH_PATH, json=envelope(json.dumps(request()).encode())).status_code == 200
    (job_id,) = jobs(services)
    assert services.store.get(job_id).idempotency_key == "job-requests/7"


def test_the_key_of_a_message_is_its_attribute(client_of: Any, services: Services) -> None:
    client = client_of("dispatch")
    for message_id in ("1", "2"):
        body = envelope(json.dumps(request()).encode(), attributes={"Idempotency-Key": "k"}, messageId=message_id)
        assert client.post(PUSH_PATH, json=body).status_code == 200
    assert len(jobs(services)) == 1


def test_a_temporary_failure_requests_a_redelivery(client_of: Any, services: Services) -> None:
    services.launcher.broken = ConnectionError()  # type: ignore[attr-defined]
    assert client_of("dispatch").post(PUSH_PATH, json=envelope(json.dumps(request()).encode())).status_code == 500


def test_a_message_that_can_never_succeed_is_acknowledged(client_of: Any, services: Services) -> None:
    services.bus.subscribe("test", Topic.JOB_STATUS)
    assert client_of("dispatch").post(PUSH_PATH, json=envelope(b"not a request")).status_code == 200
    (message,) = services.bus.pull("test", 9)
    assert message.attributes["type"] == "job_rejected"


def test_a_message_without_content_is_refused(client_of: Any) -> None:
    body = envelope(b"")
    del body["message"]["data"]
    assert client_of("dispatch").post(PUSH_PATH, json=body).status_code == 400


@embedded_only  # a recording names buckets
@pytest.mark.parametrize("recording", sorted(RECORDED.glob("*.json")), ids=lambda path: path.stem)
def test_a_recorded_event_is_understood(recording: Path, client_of: Any, services: Services) -> None:
    """Replay one recorded delivery.

    A recording holds its headers, its body in base64, and the expected outcome.
    """
    recorded = json.loads(recording.read_text())
    services.buckets.uploads.write("x.job.json", json.dumps(request()).encode())
    services.buckets.uploads.generation = lambda name: recorded.get("generation")  # type: ignore[method-assign]
    posted: list[str] = []
    posting = lambda url, body, headers: posted.append(url) or 204  # noqa: E731
    services.__dict__["notify"] = replace(services.notify, post=posting)
    client = client_of(recorded["function"])
    body = base64.b64decode(recorded["body"])
    assert client.post(recorded["path"], data=body, headers=recorded["headers"]).status_code == 200
    assert len(jobs(services)) == recorded["jobs"]
    assert posted == (["https://example.com/hook"] if recorded["function"] == "notify" else [])


def test_control_answers_the_workflow(client_of: Any, services: Services, api: Any) -> None:
    control = client_of("control")
    job_id = api.post("/train", json=request()).json["job_id"]
    services.dispatch.launch(job_id)
    me = {"job_id": job_id, "launch": 1, "execution": "e"}
    admitted = control.post("/claim", json=me).json
    assert admitted["verdict"] == "go"
    assert admitted["steps"]["train"]["job"] == f"gemtune-train-{services.settings.machines[0]}"
    assert control.post("/claim", json=me | {"execution": "other"}).json == {"verdict": "quit"}
    assert control.post("/claim", json=me | {"job_id": "training_none"}).json == {"verdict": "quit"}
    stop = {"verdict": "stop", "wait_seconds": 0, "plan": None}
    ruling = control.post("/admit", json=me | {"step": "prepare"}).json
    assert (ruling["verdict"], ruling["plan"]["job"]) == ("run", "gemtune-prepare")
    assert control.post("/admit", json=me | {"step": "prepare", "execution": "other"}).json == stop
    ended = me | {"step": "prepare", "round": 1, "error": "boom"}
    assert control.post("/step_ended", json=ended).json == {"verdict": "again", "wait_seconds": 10, "plan": None}
    assert control.post("/step_ended", json=ended | {"execution": "other"}).json == stop
    no_quota = {"error": {"code": 8, "message": "no GPU"}, "name": "operations/x", "metadata": {}}
    refused = ended | {"round": 2, "tags": ["OperationError"], "operation": no_quota}
    assert control.post("/step_ended", json=refused).json == {"verdict": "again", "wait_seconds": 30, "plan": None}
    shown = api.get(f"/jobs/{job_id}/status").json
    assert (shown["waiting"]["reason"], shown["waiting"]["position"]) == ("quota", 0)
    malformed, unknown = control.post("/claim", json={"job_id": 3}), control.get("/claim")
    assert (malformed.status_code, malformed.json["error"]["code"]) == (400, "bad_call")
    assert "job_id" in malformed.json["error"]["message"]
    assert (unknown.status_code, unknown.json["error"]["code"]) == (404, "not_found")
    assert "/step_ended" in unknown.json["error"]["message"]


ME = {"job_id": "training_none", "launch": 1, "execution": "e"}


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/claim", ME, {"verdict": "quit"}),
        ("/claim/", ME, {"verdict": "quit"}),
        ("/step_ended", ME | {"step": "train", "round": 1}, {"verdict": "stop", "wait_seconds": 0, "plan": None}),
        (
            "/step_ended/",
            ME | {"step": "train", "round": 1, "error": None},
            {"verdict": "stop", "wait_seconds": 0, "plan": None},
        ),
    ],
)
@embedded_only
def test_calls_of_the_workflow_are_answered_with_200(client_of: Any, path: str, body: Any, answer: Any) -> None:
    response = client_of("control").post(path, json=body)
    assert (response.status_code, response.json) == (200, answer)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/claim", ME | {"launch": 0}),
        ("/claim", {"job_id": "training_none", "launch": 1}),
        ("/step_ended", ME | {"step": "train"}),
        ("/step_ended", ME | {"step": "train", "round": 0}),
        ("/step_ended", ME | {"step": "judge", "round": 1}),
    ],
)
@embedded_only
def test_a_malformed_call_of_the_workflow_is_refused(client_of: Any, path: str, body: Any) -> None:
    response = client_of("control").post(path, json=body)
    assert (response.status_code, response.json["error"]["code"]) == (400, "bad_call")


def test_a_failure_of_control_is_answered_with_503_for_a_retry(
    client_of: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(services.store), "update", lambda *args, **kwargs: 1 / 0)
    answer = client_of("control").post("/claim", json={"job_id": "x", "launch": 1, "execution": "e"})
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "try_again")
    assert "could not answer" in answer.json["error"]["message"]


def test_the_sweep_is_a_function(client_of: Any) -> None:
    assert client_of("sweep").post("/").json == {"swept": True}


@embedded_only
def test_control_knows_three_calls_and_nothing_else(client_of: Any) -> None:
    control = client_of("control")
    calls = ("/claim", "/admit", "/step_ended")
    others = [("GET", call) for call in calls] + [("POST", path) for path in ("/", "/other", "/claim/x")]
    answers = [control.open(path, method=method) for method, path in others]
    assert {(answer.status_code, answer.json["error"]["code"]) for answer in answers} == {(404, "not_found")}
    bodies = [control.post(f"{call}/", data=b"{}") for call in calls]
    assert {(answer.status_code, answer.json["error"]["code"]) for answer in bodies} == {(400, "bad_call")}
