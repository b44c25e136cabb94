"""Weights & Biases server, as far as the pinned client needs one for a run."""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """State of the server.

    runs: run id -> name, project, config and history (the lines of wandb-history.jsonl).
    url: where it listens. received: the body of every call. operations: the name of every GraphQL operation.
    status: the status of every answer. silent: whether calls get no answer at all.
    """

    def __init__(self) -> None:
        self.url = ""
        self.runs: dict[str, dict[str, Any]] = {}
        self.keys: set[str] = set()
        self.operations: list[str] = []
        self.received: list[bytes] = []
        self.status, self.silent = 200, False

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        name = re.search(r"(?:query|mutation)\s+(\w+)", query)
        self.operations.append(name.group(1) if name else query[:60])
        if "upsertBucket" in query:
            return {"upsertBucket": {"bucket": self._upsert(variables), "inserted": True}}
        if "bucket(name" in query:
            run = self.runs.get(variables.get("name") or variables.get("run", ""))
            project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "us"}}
            return {"model": project | {"bucket": None if run is None else self._bucket(run)}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "viewer" in query:
            return {"viewer": {"id": "u", "entity": "us", "username": "us", "flags": "{}", "teams": {"edges": []}}}
        return {}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(
            variables["name"], {"id": variables["name"], "history": [], "config": {}, "finished": []}
        )
        run["name"] = variables.get("displayName") or run.get("name")
        run["project"] = variables.get("project")
        if variables.get("config"):
            run["config"] = json.loads(variables["config"])
        return self._bucket(run)

    def _bucket(self, run: dict[str, Any]) -> dict[str, Any]:
        history, event = run["history"], json.dumps({"_runtime": 1})
        return {
            "id": base64.b64encode(run["id"].encode()).decode(),
            "name": run["id"],
            "displayName": run["name"],
            "description": "",
            "config": json.dumps(run["config"]),
            "sweepName": None,
            "tags": [],
            "notes": "",
            "project": {"id": "p", "name": run["project"], "entity": {"id": "e", "name": "us"}},
            "historyLineCount": len(history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "stopped": False,
            "historyTail": json.dumps([json.dumps(row) for row in history[-1:]]),
            "eventsTail": json.dumps([event]),
            "summaryMetrics": json.dumps(history[-1] if history else {}),
            "wandbConfig": '{"t": {}}',
        }

    def stream(self, run_id: str, body: dict[str, Any]) -> None:
        run = self.runs[run_id]
        chunk = body.get("files", {}).get("wandb-history.jsonl")
        if chunk is not None:
            del run["history"][chunk["offset"] :]
            run["history"] += [json.loads(line) for line in chunk["content"]]
        if body.get("complete"):
            run["finished"].append(body.get("exitcode"))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignore that the client closes its connections without a word."""


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Run a server while the context is open; yield its state."""
    state, stopping = WandbServer(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self._body()
            authorization = self.headers.get("Authorization", "")
            if authorization.startswith("Basic "):
                state.keys.add(base64.b64decode(authorization[6:]).decode().partition(":")[2])
            if state.silent:
                stopping.wait(60)
            elif state.status != 200:
                self._answer({"errors": [{"message": "refused"}]}, state.status)
            elif self.path == "/graphql":
                body = json.loads(content)
                self._answer({"data": state.graphql(body.get("query", ""), body.get("variables") or {})})
            elif match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                state.stream(match.group(1), json.loads(content))
                self._answer({"exitcode": None, "limits": {}})
            else:
                self._answer({})

        def do_GET(self) -> None:
            self._answer({}, 404)

        def do_PUT(self) -> None:
            self._body()
            self._answer({})

        def _body(self) -> bytes:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            plain = gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content
            state.received.append(plain)
            return plain

        def _answer(self, body: dict[str, Any], status: int = 200) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()
