"""The HTTP API from the point of view of a client."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gemtune import VERSION
from gemtune.bootstrap import Services
from gemtune.jobs.parts.results import Artifact
from gemtune.jobs.record import Claim
from gemtune.jobs.status import Step
from tests.fakes import World, request
from tests.handlers.conftest import embedded_only
from tests.services.test_running import Running


def submitted(api: Any, **fields: Any) -> str:
    answer = api.post("/train", json=request(**fields))
    assert answer.status_code == 202, answer.text
    return str(answer.json["job_id"])


def test_health(api: Any) -> None:
    assert api.get("/health").json == {"status": "healthy", "service": "training", "version": VERSION}


def test_a_request_is_accepted_and_shown(api: Any) -> None:
    job_id = submitted(api, job_name="Mine")
    shown = api.get(f"/jobs/{job_id}/status").json
    expected = {
        "job_id": job_id,
        "job_name": "Mine",
        "status": "queued",
        "modality": "text",
        "wandb_url": None,
        "adapter_path": None,
        "base_model_id": "google/gemma-3-270m-it",
        "error": None,
        "metrics": None,
        "progress": None,
    }
    assert {name: shown[name] for name in expected} == expected
    (event,) = api.get(f"/jobs/{job_id}/events").json["events"]
    assert (event["seq"], event["type"]) == (1, "job_queued")
    assert api.get(f"/jobs/{job_id}/events?after=1").json == {"events": []}
    (row,) = api.get("/jobs").json["jobs"]
    assert set(row) == {"job_id", "job_name", "status", "modality", "base_model_id", "created_at", "waiting"}


def test_a_refusal_lists_every_problem(api: Any) -> None:
    answer = api.post("/train", json={"training_config": {"batch_size": 0}, "nope": 1})
    assert answer.status_code == 422
    assert answer.json["error"]["code"] == "request_refused"
    assert {tuple(problem["loc"]) for problem in answer.json["problems"]} == {
        ("processed_dataset_id",),
        ("training_config", "base_model_id"),
        ("training_config", "batch_size"),
        ("nope",),
    }
    assert all(set(problem) == {"loc", "msg", "code", "hint"} for problem in answer.json["problems"])


def test_an_idempotency_key_makes_repeats_safe(api: Any) -> None:
    def post(**fields: Any) -> Any:
        return api.post("/train", json=request(**fields), headers={"Idempotency-Key": "k"})

    assert post().json == post().json
    assert (post(job_name="other").status_code, post(job_name="other").json["error"]["code"]) == (
        409,
        "idempotency_key_reused",
    )
    assert api.post("/train", json=request(), headers={"Idempotency-Key": "x" * 2000}).status_code == 422


def test_a_job_without_a_plan_says_why_and_what_to_do_in_every_status(api: Any, backend: World) -> None:
    def answer_of(job_id: str) -> tuple[int, str, str]:
        answer = api.get(f"/jobs/{job_id}/plan")
        return answer.status_code, answer.json["error"]["message"].partition(": ")[2], answer.json["error"]["hint"]

    dry_run = "plan the request: POST /train?dry_run=true"
    waiting = (409, "its rows are not counted", f"wait until prepare is done, or {dry_run}")
    running = Running(backend)
    assert answer_of(running.job_id) == waiting
    running.begin(Step.PREPARE)
    assert answer_of(running.job_id) == waiting
    backend.services.cancel(running.job_id)
    assert answer_of(running.job_id) == (409, "it is cancelled, and its rows were not counted", dry_run)
    trained = Running(backend)
    trained.complete()
    export = api.post(f"/jobs/{trained.job_id}/exports", json={"export_config": {"format": "merged"}}).json["job_id"]
    for _ in range(2):
        status = f"see what it takes in its status: GET /jobs/{export}/status"
        assert answer_of(export) == (409, "it only exports", status)
        api.post(f"/jobs/{export}/cancel")


def test_cancel_and_delete_depend_on_the_state_of_the_job(api: Any) -> None:
    job_id = submitted(api)
    assert api.delete(f"/jobs/{job_id}").status_code == 409
    assert api.post(f"/jobs/{job_id}/cancel").status_code == 202
    assert api.post(f"/jobs/{job_id}/cancel").json["error"]["code"] == "job_is_over"
    assert api.delete(f"/jobs/{job_id}").json == {"job_id": job_id, "deleted": True}
    for answer in (
        api.get(f"/jobs/{job_id}/status"),
        api.get(f"/jobs/{job_id}/request"),
        api.get(f"/jobs/{job_id}/events"),
        api.get(f"/jobs/{job_id}/metrics"),
        api.get(f"/jobs/{job_id}/artifacts"),
        api.post(f"/jobs/{job_id}/cancel"),
        api.delete(f"/jobs/{job_id}"),
    ):
        assert (answer.status_code, answer.json["error"]["code"]) == (404, "job_not_found")


def test_a_job_of_a_newer_version_can_be_shown_cancelled_and_deleted(api: Any, backend: World) -> None:
    job_id = submitted(api)
    newer = {"status": "suspended", "source": "openai", "urgency": 3}
    fields = backend.record(job_id) | newer
    fields["steps"] |= {"judge": {"state": "waiting", "seconds": 3.5}}
    backend.write_record(job_id, fields)
    shown = api.get(f"/jobs/{job_id}/status").json
    assert (shown["status"], shown["source"], shown["steps"]["judge"]["state"]) == ("suspended", "openai", "waiting")
    assert [job["status"] for job in api.get("/jobs").json["jobs"]] == ["suspended"]
    assert api.post(f"/jobs/{job_id}/cancel").json["status"] == "cancelled"
    assert api.delete(f"/jobs/{job_id}").status_code == 200


def test_the_request_of_a_job_can_be_sent_again(api: Any) -> None:
    job_id = submitted(api, job_name="Mine", hf_token="hf_fakefakefake")
    shown = api.get(f"/jobs/{job_id}/request").json
    assert (shown["request"]["job_name"], shown["left_out"]) == ("Mine", ["hf_token"])
    again = api.post("/train", json=shown["request"])
    assert again.status_code == 202
    assert api.get(f"/jobs/{again.json['job_id']}/request").json == shown | {"left_out": []}


def test_an_unreadable_job_can_be_cancelled_and_deleted(api: Any, backend: World) -> None:
    job_id = submitted(api)
    backend.write_record(job_id, backend.record(job_id) | {"metrics": "not metrics"})
    for path in ("status", "metrics", "artifacts"):
        answer = api.get(f"/jobs/{job_id}/{path}")
        assert (answer.status_code, answer.json["error"]["code"]) == (409, "record_unreadable")
        assert "metrics" in answer.json["error"]["message"]
    assert api.get(f"/jobs/{job_id}/events").status_code == 200
    assert api.delete(f"/jobs/{job_id}").json["error"]["code"] == "job_is_running"
    assert api.post(f"/jobs/{job_id}/cancel").json["status"] == "cancelled"
    assert api.get(f"/jobs/{job_id}/status").json["status"] == "cancelled"
    assert api.delete(f"/jobs/{job_id}").status_code == 200
    assert api.get(f"/jobs/{job_id}/status").status_code == 404


def test_jobs_are_listed_in_pages(api: Any, backend: World) -> None:
    ids = []
    for _ in range(5):
        ids.append(submitted(api))
        backend.clock.advance(seconds=1)
    first = api.get("/jobs?limit=3").json
    second = api.get("/jobs", query_string={"limit": 3, "page_token": first["next_page_token"]}).json
    assert [job["job_id"] for job in first["jobs"] + second["jobs"]] == ids[::-1]
    assert second["next_page_token"] is None
    assert api.get("/jobs?status=failed").json["jobs"] == []


def test_the_list_has_only_jobs_of_the_status_and_the_modality_asked_for(api: Any) -> None:
    pictures = submitted(api, modality="vision", training={"base_model_id": "google/gemma-3-4b-it"})
    cancelled = submitted(api)
    api.post(f"/jobs/{cancelled}/cancel")

    def listed(query: str) -> set[str]:
        return {job["job_id"] for job in api.get(f"/jobs?{query}").json["jobs"]}

    assert listed("") == {pictures, cancelled}
    assert listed("modality=vision") == listed("status=queued") == {pictures}
    assert listed("modality=text") == listed("status=cancelled") == {cancelled}
    assert listed("modality=text&status=queued") == set()


@pytest.mark.parametrize(
    "query",
    [
        "limit=x",
        "limit=-1",
        "limit=0",
        "limit=201",
        "limit=²",
        "limit=+5",
        "limit= 5",
        "limit=05",
        "limit=5.0",
        "limit=",
        "limit=" + "0" * 20 + "9" * 20,
        "limit=" + "0" * 20 + "5000",
        "limit=" + "9" * 5000,
        "status=nope",
        "modality=smell",
    ],
)
def test_an_invalid_query_is_refused(api: Any, query: str) -> None:
    assert api.get(f"/jobs?{query}").status_code == 422


@pytest.mark.parametrize("route", ["events", "metrics"])
@pytest.mark.parametrize("after", ["-1", "0" * 20 + "9" * 30, "0" * 5000, "9" * 5000, str(2**53), "1e3", "٣"])
def test_an_invalid_position_in_a_list_is_refused(api: Any, route: str, after: str) -> None:
    job_id = submitted(api)
    answer = api.get(f"/jobs/{job_id}/{route}", query_string={"after": after})
    assert (answer.status_code, answer.json["problems"][0]["loc"]) == (422, ["query", "after"])
    assert api.get(f"/jobs/{job_id}/{route}?after={2**53 - 1}").status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        "zzz",
        '["\\ud800","a"]',
        "[" * 30_000,
        "[" * 150,
        '["2026-01-01T00:00:00","a"]',
        '["2026-01-01T00:00:00Z",1]',
        '[1,"a"]',
        '["a","b","c"]',
        "{}",
        '"ab"',
        '["+0000-99-99","a"]',
        '["0001-01-01T00:00:00+14:00","a"]',
        '["9999-12-31T23:59:59-14:00","a"]',
        "1" * 180,
    ],
)
def test_a_forged_page_token_is_refused(api: Any, content: str) -> None:
    token = base64.urlsafe_b64encode(content.encode()).decode()
    for sent in (content, token):
        answer = api.get("/jobs", query_string={"page_token": sent})
        codes = [answer.json["error"]["code"], *(problem["code"] for problem in answer.json.get("problems", ()))]
        assert (answer.status_code, codes[-1]) == (422, "bad_page_token")


def test_the_loss_curve_is_merged_from_all_attempts(api: Any, services: Services) -> None:
    job_id = submitted(api)

    def lines(*entries: dict[str, Any]) -> bytes:
        return "".join(json.dumps(entry) + "\n" for entry in entries).encode()

    export = services.buckets.export
    export.write(
        f"jobs/{job_id}/metrics/2.jsonl", lines({"train_step": 2, "loss": 0.2}, {"train_step": 3, "loss": 0.1})
    )
    export.write(f"jobs/{job_id}/metrics/10.jsonl", lines({"train_step": 3, "loss": 0.3}))
    export.write(
        f"jobs/{job_id}/metrics/1.jsonl",
        lines({"train_step": 1, "loss": 9}, {"train_step": 2, "loss": 9}, {"train_step": 2, "eval_loss": 1}),
    )
    assert api.get(f"/jobs/{job_id}/metrics").json["metrics"] == [
        {"train_step": 1, "loss": 9},
        {"train_step": 2, "loss": 0.2},
        {"train_step": 2, "eval_loss": 1},
        {"train_step": 3, "loss": 0.3},
    ]
    assert api.get(f"/jobs/{job_id}/metrics?after=2").json["metrics"] == [{"train_step": 3, "loss": 0.3}]


def test_a_trained_job_can_be_exported_again(api: Any, services: Services) -> None:
    job_id = submitted(api)
    body = {"export_config": {"format": "adapter"}, "job_name": "again"}
    answer = api.post(f"/jobs/{job_id}/exports", json=body)
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "job_is_running")
    train(services, job_id)
    api.post(f"/jobs/{job_id}/cancel")
    answers = [api.post(f"/jobs/{job_id}/exports", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json == answers[1].json
    shown = api.get(f"/jobs/{answers[0].json['job_id']}/status").json
    assert (shown["parent_job_id"], shown["status"], shown["job_name"]) == (job_id, "queued", "again")
    assert {name: step["state"] for name, step in shown["steps"].items()} == {
        "prepare": "done",
        "train": "done",
        "export": "pending",
    }
    assert api.delete(f"/jobs/{job_id}").json["error"]["code"] == "job_has_children"
    answer = api.post(f"/jobs/{job_id}/exports", json={"export_config": {"format": "adapter", "quantization": "q4"}})
    assert answer.json["problems"][0]["code"] == "quantization_not_in_format"
    assert api.post("/jobs/nope/exports", json=body).status_code == 404


def train(services: Services, job_id: str) -> None:
    """Claim a job and complete its first two steps."""
    claim = Claim(launch=1, execution="e")
    services.dispatch.launch(job_id)
    services.control.claim(job_id, claim)
    for step in (Step.PREPARE, Step.TRAIN):
        begun = services.advance.begin(job_id, step, claim, execution="x")
        assert begun is not None
        services.advance.finish(job_id, begun[1])


def test_artifacts_are_listed_with_a_link_that_reads_them(api: Any, services: Services) -> None:
    job_id = submitted(api)
    export = services.buckets.export
    for name in ("b.bin", "a/ü.json"):
        export.write(f"jobs/{job_id}/export/1/{name}", name.encode())
    recorded = [
        Artifact(name=name, uri=export.uri(f"jobs/{job_id}/export/1/{name}"), bytes=5, sha256="0" * 64)
        for name in ("b.bin", "a/ü.json")
    ]
    assert api.get(f"/jobs/{job_id}/artifacts").json == {"artifacts": []}
    services.store.update(job_id, lambda job: (job.model_copy(update={"artifacts": tuple(recorded)}), ()))
    listed = api.get(f"/jobs/{job_id}/artifacts").json["artifacts"]
    assert [artifact["name"] for artifact in listed] == ["a/ü.json", "b.bin"]
    for artifact in listed:
        assert set(artifact) == {"name", "bytes", "sha256", "url", "path"}
        if services.settings.on_gcp:
            content = httpx2.get(artifact["url"], trust_env=False).content
        else:
            content = Path(artifact["path"]).read_bytes()
        assert content == artifact["name"].encode()


@embedded_only
def test_artifacts_are_found_after_the_home_was_moved(api: Any, services: Services) -> None:
    job_id = submitted(api)
    services.buckets.export.write(f"jobs/{job_id}/export/1/a", b"a")
    old = Artifact(name="a", uri=f"/elsewhere/export/jobs/{job_id}/export/1/a", bytes=1, sha256="0" * 64)
    services.store.update(job_id, lambda job: (job.model_copy(update={"artifacts": (old,)}), ()))
    (artifact,) = api.get(f"/jobs/{job_id}/artifacts").json["artifacts"]
    assert Path(artifact["path"]).read_bytes() == b"a"


@embedded_only
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8080"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://localhost:8080"},  # another origin than 127.0.0.1:8080, which the request goes to
        {"Origin": "http://127.0.0.1"},
        {"Origin": "https://127.0.0.1:8080"},
        {"Origin": ""},
        {"Host": "["},
    ],
)
def test_a_web_page_cannot_use_the_service(api: Any, headers: dict[str, str]) -> None:
    assert api.get("/jobs", headers=headers).status_code == 403
    assert api.post("/train", json=request(), headers=headers).status_code == 403
    assert api.get("/jobs").json["jobs"] == []


@embedded_only
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8080", "[::1]:8080"])
def test_the_names_of_the_machine_itself_are_accepted(api: Any, host: str) -> None:
    assert api.get("/jobs", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


def test_unknown_paths_and_too_large_bodies_are_answered_with_their_status(api: Any) -> None:
    assert (api.get("/nope").status_code, api.get("/nope").json["error"]["code"]) == (404, "not_found")
    answer = api.put("/train")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert api.post("/train", data=b" " * (1024 * 1024 + 1)).status_code == 413
    assert api.get("/jobs/..%2F..%2Fx/status").status_code == 404


def test_the_answer_to_an_internal_error_contains_no_details(
    api: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(services.store), "page", lambda *args, **kwargs: 1 / 0)
    answer = api.get("/jobs")
    assert (answer.status_code, answer.json["error"]["code"]) == (500, "internal")
    assert "division" not in answer.text


@embedded_only
def test_a_token_is_in_no_answer_and_only_in_its_own_file(api: Any, services: Services) -> None:
    token = "hf_fakefakefakefake"
    job_id = submitted(api, hf_token=token)
    answers = [api.get(path).text for path in (f"/jobs/{job_id}/status", f"/jobs/{job_id}/events", "/jobs")]
    answers.append(api.post("/train", json=request(hf_token=token, nope=token)).text)
    assert not [answer for answer in answers if token in answer]
    services.database.close()
    holding = [p for p in services.settings.home.rglob("*") if p.is_file() and token.encode() in p.read_bytes()]
    assert [path.parent.name for path in holding] == ["secrets"]
