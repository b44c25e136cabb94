"""Output of steps, on both backends: files, and a stand-in for Cloud Logging."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from google.auth.credentials import AnonymousCredentials

from gemtune.embedded import file_logs
from gemtune.errors import BadPageToken, LogsBusy, NoLogs
from gemtune.gcp import cloud_logs
from gemtune.handlers.description.endpoint import status_of
from gemtune.ports import Logs
from tests.fakes import World

JOB, EXECUTION = "training_a_b_0123456789ab", "gemtune-train-cpu-abcde"


@dataclass
class CloudLoggingStandIn:
    """Stand-in for Cloud Logging's API; it knows the conditions in use."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    status_code: int = 200
    answer: list[dict[str, Any]] = field(default_factory=list)

    def write(self, execution: str, texts: Sequence[str]) -> None:
        """Write entries, two of which have the same time."""
        for text in texts:
            at = datetime(2026, 11, 24, 12, tzinfo=UTC) + timedelta(seconds=0.5 * (len(self.entries) // 2))
            entry = {"timestamp": at.isoformat().replace("+00:00", "Z"), "insertId": f"id-{len(self.entries):05}"}
            labels = {"run.googleapis.com/execution_name": execution}
            resource = {"type": "cloud_run_job"}
            self.entries.append(entry | {"textPayload": text, "labels": labels, "resource": resource})

    def post(self, url: str, *, json: dict[str, Any], timeout: float) -> CloudLoggingStandIn:
        conditions = json["filter"].split(" AND ")
        assert (url, json["orderBy"], json["resourceNames"]) == (cloud_logs.URL, "timestamp asc", ["projects/p"])
        matching = [entry for entry in self.entries if all(_holds(condition, entry) for condition in conditions)]
        ordered = sorted(matching, key=lambda entry: (datetime.fromisoformat(entry["timestamp"]), entry["insertId"]))
        self.answer = ordered[: json["pageSize"]]
        return self

    def raise_for_status(self) -> None:
        assert self.status_code == 200

    def json(self) -> dict[str, Any]:
        return {"entries": self.answer} if self.answer else {}


def _holds(condition: str, entry: dict[str, Any]) -> bool:
    match = re.fullmatch(r'(resource\.type|labels\."[\w./]+"|timestamp)(=|>=)"([^"]*)"', condition)
    assert match is not None, f"the stand-in does not know the condition {condition}"
    name, operator, value = match.groups()
    if operator == ">=":
        return datetime.fromisoformat(entry[name]) >= datetime.fromisoformat(value)
    actual = entry["resource"]["type"] if name == "resource.type" else entry["labels"].get(name.split('"')[1])
    return bool(actual == value)


@dataclass
class Backend:
    logs: Logs
    write: Callable[[str, Sequence[str]], None]


@pytest.fixture(params=["embedded", "gcp"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    if request.param == "gcp":
        stand_in = CloudLoggingStandIn()
        monkeypatch.setattr(cloud_logs, "_session", lambda: stand_in)
        return Backend(cloud_logs.CloudLogs("p"), stand_in.write)
    export = World(tmp_path / "home").services.buckets.export

    def write(execution: str, texts: Sequence[str]) -> None:
        name = f"jobs/{JOB}/logs/{execution}.log"
        before = b"" if export.stat(name) is None else export.read(name)
        export.write(name, before + b"".join(f"{text}\n".encode() for text in texts))

    return Backend(file_logs.FileLogs(export), write)


def read_all(logs: Logs, *, limit: int, execution: str = EXECUTION) -> list[str]:
    texts, position = [], ""
    while (chunk := logs.read(JOB, execution, position=position, limit=limit, is_over=True)).lines:
        assert len(chunk.lines) <= limit
        texts += [line.text for line in chunk.lines]
        position = chunk.position
    return texts


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_lines_are_read_in_order_whatever_the_page(backend: Backend, limit: int) -> None:
    texts = [f"line {number} ä" for number in range(7)]
    backend.write(EXECUTION, texts)
    backend.write("gemtune-train-cpu-other", ["not this one"])
    assert read_all(backend.logs, limit=limit) == texts


def test_later_lines_follow_the_position(backend: Backend) -> None:
    backend.write(EXECUTION, ["a", "b", "c"])
    first = backend.logs.read(JOB, EXECUTION, position="", limit=100, is_over=False)
    again = backend.logs.read(JOB, EXECUTION, position=first.position, limit=100, is_over=False)
    assert (len(first.lines), again.lines, again.position) == (3, [], first.position)
    backend.write(EXECUTION, ["d"])
    later = backend.logs.read(JOB, EXECUTION, position=first.position, limit=100, is_over=False)
    assert [line.text for line in later.lines] == ["d"]


def test_a_call_returns_few_long_lines_and_none_is_missed(backend: Backend) -> None:
    long = [f"{number} " + "x" * 100_000 for number in range(8)]
    backend.write(EXECUTION, long)
    first = backend.logs.read(JOB, EXECUTION, position="", limit=1000, is_over=True)
    assert 0 < sum(len(line.text) for line in first.lines) <= 300_000
    assert read_all(backend.logs, limit=1000) == long


def test_tokens_are_removed(backend: Backend) -> None:
    backend.write(EXECUTION, ["logging in with hf_fakefakefake"])
    assert read_all(backend.logs, limit=9) == ["logging in with [secret]"]


@pytest.mark.parametrize("position", ["x", "-1", '2026" OR "', "1" * 40])
def test_a_position_that_is_none_is_refused(backend: Backend, position: str) -> None:
    backend.write(EXECUTION, ["a"])
    with pytest.raises(BadPageToken):
        backend.logs.read(JOB, EXECUTION, position=position, limit=9, is_over=False)


def write_raw(world: World, content: bytes) -> file_logs.FileLogs:
    world.services.buckets.export.write(f"jobs/{JOB}/logs/{EXECUTION}.log", content)
    return file_logs.FileLogs(world.services.buckets.export)


def test_the_last_line_of_a_file_waits_for_its_end(world: World) -> None:
    logs = write_raw(world, b"whole\nhal")
    running = logs.read(JOB, EXECUTION, position="", limit=9, is_over=False)
    assert [line.text for line in running.lines] == ["whole"]
    over = logs.read(JOB, EXECUTION, position=running.position, limit=9, is_over=True)
    assert [line.text for line in over.lines] == ["hal"]
    assert not logs.read(JOB, EXECUTION, position=over.position, limit=9, is_over=True).lines


def test_a_progress_bar_is_one_line_and_a_line_longer_than_a_block_comes_in_pieces(world: World) -> None:
    logs = write_raw(world, b" 10%\r 50%\r100%\n" + b"x" * (file_logs.BLOCK_BYTES * 2) + b"y\nend\n")
    texts = read_all(logs, limit=9)
    assert (texts[0], texts[-1]) == ("100%", "end")
    assert "".join(texts[1:-1]) == "x" * (file_logs.BLOCK_BYTES * 2) + "y"


def test_a_position_in_a_token_shows_nothing_of_it(world: World) -> None:
    token = "hf_fakefakefake"
    line, begin = f"logging in with {token} as me", len("logging in with ")
    content = f"{line}\n{'x' * (file_logs.BLOCK_BYTES - 10)} {token} end\n"
    logs = write_raw(world, content.encode())
    for position in range(len(line)):
        (shown,) = logs.read(JOB, EXECUTION, position=str(position), limit=1, is_over=True).lines
        rest = line[position if position <= begin else max(position, begin + len(token)) :]
        assert shown.text == rest.replace(token, "[secret]"), position
    pieces = read_all(logs, limit=9)[1:]
    assert [piece.lstrip("x") for piece in pieces] == [" [secret]", " end"]


def test_a_service_that_may_not_read_logs_names_the_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_logs, "_session", lambda: CloudLoggingStandIn(status_code=403))
    with pytest.raises(NoLogs) as caught:
        cloud_logs.CloudLogs("p").read(JOB, EXECUTION, position="", limit=9, is_over=False)
    assert "logging.logEntries.list" in str(caught.value.hint)
    assert EXECUTION in str(caught.value.hint)


@pytest.mark.parametrize("error", [requests.exceptions.RetryError("429"), requests.exceptions.ReadTimeout("20 s")])
def test_logs_that_do_not_come_are_no_fault_of_the_service(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **more: Any) -> None:
        raise error

    stand_in = CloudLoggingStandIn()
    monkeypatch.setattr(stand_in, "post", fail)
    monkeypatch.setattr(cloud_logs, "_session", lambda: stand_in)
    with pytest.raises(LogsBusy) as caught:
        cloud_logs.CloudLogs("p").read(JOB, EXECUTION, position="", limit=9, is_over=False)
    assert status_of(type(caught.value))[0] == 503


class OnceTooMany(BaseHTTPRequestHandler):
    """Answers the first request with 429, as an exhausted quota does."""

    requests = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        OnceTooMany.requests += 1
        body = b'{"entries": [{"timestamp": "2026-11-24T12:00:00Z", "insertId": "a", "textPayload": "line"}]}'
        self.send_response(429 if OnceTooMany.requests == 1 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def test_an_exhausted_quota_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), OnceTooMany)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr("google.auth.default", lambda scopes: (AnonymousCredentials(), None))
    cloud_logs._session.cache_clear()
    session = cloud_logs._session()
    session.mount("http://", session.get_adapter(cloud_logs.URL))
    monkeypatch.setattr(cloud_logs, "URL", f"http://127.0.0.1:{server.server_port}/")
    try:
        chunk = cloud_logs.CloudLogs("p").read(JOB, EXECUTION, position="", limit=9, is_over=False)
        assert ([line.text for line in chunk.lines], OnceTooMany.requests) == (["line"], 2)
    finally:
        cloud_logs._session.cache_clear()
        server.shutdown()
        server.server_close()
