"""`make smoke` against the local server, and against broken services."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy import smoke
from deploy.tools import Refused
from tests.e2e.service import Service
from tests.infra.stand_ins import StandIns

HEALTHY = {
    "/health": (200, {"status": "healthy", "service": "training", "version": "0.1.0"}),
    "/openapi.json": (200, {"paths": {"/train": {}}}),
}
LISTED = HEALTHY | {"/jobs?limit=1": (200, {"jobs": []})}


@contextmanager
def serving(answers: dict[str, object], *, token: str | None = None) -> Iterator[str]:
    """Serve these answers; a list holds successive ones.

    token: required in every request if given.
    """

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = answers.get(self.path, (404, {}))
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
                answer = (403, {"error": "Forbidden"})
            assert isinstance(answer, tuple)
            body = json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _reply

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_local_service_passes_and_its_job_is_followed_to_the_end(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    cloud = StandIns(programs)
    data = tmp_path / "home" / "data" / "processed_datasets" / "broken"
    data.mkdir(parents=True)
    (data / "train.jsonl").write_text("not JSON\n")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "gemma3_text"}')
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"processed_dataset_id": "broken", "training_config": {"base_model_id": str(model)}}))
    with Service(tmp_path / "home") as service:
        well = cloud.make("smoke", f"GEMTUNE_URL={service.url}")
        assert well.returncode == 0, well.stderr
        assert "is healthy" in well.stdout
        followed = cloud.make("smoke", f"GEMTUNE_URL={service.url}", f"REQUEST={request}")
    assert followed.returncode != 0
    assert "failed" in followed.stdout
    assert "error: " in followed.stdout
    assert cloud.calls == []  # a local service needs no token


def test_a_completed_job_is_reported_with_its_path_and_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = tmp_path / "request.json"
    request.write_text("{}")
    states = [
        {"status": "queued"},
        {"status": "training", "machine": "l4"},
        {"status": "training", "machine": "l4"},
        {"status": "completed", "error": None, "adapter_path": "gs://b/x", "cost_usd": 0.31},
    ]
    answers = LISTED | {"/train": (202, {"job_id": "j"}), "/jobs/j/status": [(200, state) for state in states]}
    slept: list[float] = []
    with serving(answers) as url:
        assert smoke.run({"GEMTUNE_URL": url, "REQUEST": str(request)}, sleep=slept.append) == 0
    output = capsys.readouterr().out
    assert [line.strip() for line in output.splitlines()[1:]] == [
        "job j",
        "queued",
        "training on l4",
        "completed",
        "adapter_path: gs://b/x",
        "cost_usd: 0.31",
    ]
    assert len(slept) == 3


def test_a_service_must_accept_the_token_and_refuse_requests_without(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(LISTED, token="fake-token") as url:
        assert smoke.run({"GEMTUNE_URL": url, "GEMTUNE_ID_TOKEN": "fake-token"}) == 0
        with pytest.raises(Refused, match="answers 403"):
            smoke.run({"GEMTUNE_URL": url, "GEMTUNE_ID_TOKEN": "another"})
    with serving(LISTED) as url, pytest.raises(Refused, match="it is public"):
        smoke.run({"GEMTUNE_URL": url, "GEMTUNE_ID_TOKEN": "fake-token"})
    assert "fake-token" not in capsys.readouterr().out


def test_the_token_comes_from_gcloud(tmp_path: Path) -> None:
    cloud = StandIns(tmp_path)
    cloud.answer("print-identity-token", with_="fake-token\n")
    ran = cloud.make("smoke", "GEMTUNE_URL=https://gemtune.invalid")
    assert ran.returncode != 0
    assert cloud.calls == [["gcloud", "auth", "print-identity-token"]]
    assert "fake-token" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (LISTED | {"/health": (200, {"status": "sick"})}, "sick"),
        (LISTED | {"/health": (500, {})}, "answers 500"),
        (LISTED | {"/openapi.json": (200, {"paths": {}})}, "no /train"),
        (HEALTHY, "answers 404"),
    ],
)
def test_a_broken_service_is_reported(answers: dict[str, object], message: str) -> None:
    with serving(answers) as url, pytest.raises(Refused, match=message):
        smoke.run({"GEMTUNE_URL": url})


@pytest.mark.parametrize("url", ["", "gemtune.example", "ftp://x"])
def test_a_missing_or_wrong_address_is_refused(tmp_path: Path, url: str) -> None:
    ran = StandIns(tmp_path).make("smoke", f"GEMTUNE_URL={url}")
    assert ran.returncode != 0
    assert "set GEMTUNE_URL" in ran.stderr


def test_a_service_that_is_down_is_reported() -> None:
    with pytest.raises(Refused, match="has no answer"):
        smoke.run({"GEMTUNE_URL": "http://127.0.0.1:1"})
