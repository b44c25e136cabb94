"""`make smoke` against a gemtune of this machine, and against services that are not as they should be."""

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
    "/health": (200, {"status": "healthy", "service": "training"}),
    "/openapi.json": (200, {"paths": {"/train": {}}}),
}
LISTED = HEALTHY | {"/jobs?limit=1": (200, {"jobs": []})}


@contextmanager
def serving(answers: dict[str, object], *, token: str | None = None) -> Iterator[str]:
    """A service with these answers, a list of which is gone through; a token lets in only who has it."""

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = answers.get(self.path, (404, {}))
            if isinstance(found, list):
                found = found.pop(0) if len(found) > 1 else found[0]
            if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
                found = (403, {"error": "Forbidden"})
            assert isinstance(found, tuple)
            body = json.dumps(found[1]).encode()
            self.send_response(found[0])
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


def test_a_service_of_this_machine_passes_and_a_job_of_it_is_followed_to_its_end(tmp_path: Path) -> None:
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
    assert cloud.calls == []  # a service of this machine wants no token


def test_a_job_that_completes_is_a_success_with_its_place_and_its_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    said = capsys.readouterr().out
    assert [line.strip() for line in said.splitlines()[1:]] == [
        "job j",
        "queued",
        "training on l4",
        "completed",
        "adapter_path: gs://b/x",
        "cost_usd: 0.31",
    ]
    assert len(slept) == 3


def test_a_service_with_a_token_is_asked_with_it_and_must_refuse_without(capsys: pytest.CaptureFixture[str]) -> None:
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
    ("answers", "said"),
    [
        (LISTED | {"/health": (200, {"status": "sick"})}, "sick"),
        (LISTED | {"/health": (500, {})}, "answers 500"),
        (LISTED | {"/openapi.json": (200, {"paths": {}})}, "no /train"),
        (HEALTHY, "answers 404"),
    ],
)
def test_a_service_that_is_not_well_is_said_to_be_so(answers: dict[str, object], said: str) -> None:
    with serving(answers) as url, pytest.raises(Refused, match=said):
        smoke.run({"GEMTUNE_URL": url})


@pytest.mark.parametrize("url", ["", "gemtune.example", "ftp://x"])
def test_an_address_is_needed(tmp_path: Path, url: str) -> None:
    ran = StandIns(tmp_path).make("smoke", f"GEMTUNE_URL={url}")
    assert ran.returncode != 0
    assert "set GEMTUNE_URL" in ran.stderr


def test_nobody_answers() -> None:
    with pytest.raises(Refused, match="has no answer"):
        smoke.run({"GEMTUNE_URL": "http://127.0.0.1:1"})
