"""Stand-in for Cloud Run jobs (v2, REST).

Each execution is a process with the job's command and environment. It serves jobs.create and .run, operations.get,
executions.get, .list and .cancel:
https://cloud.google.com/run/docs/reference/rest/v2/projects.locations.jobs
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.forking_python import ForkedProgram, ForkingPython

TYPE = "type.googleapis.com/google.cloud.run.v2."
# Seconds between SIGTERM and SIGKILL.
GRACE = 10.0
# google.rpc.Code
CANCELLED, FAILED = 1, 9
Process = subprocess.Popen[bytes] | ForkedProgram


@dataclass
class _Execution:
    resource: dict[str, Any]
    operation: dict[str, Any]
    process: Process | None = None
    ended_by: str = ""  # "cancelled" or "timeout"
    lock: threading.Lock = field(default_factory=threading.Lock)


class CloudRunStandIn:
    def __init__(self, logs: Path, forking: ForkingPython | None = None, *, forks_first: bool = False):
        """Serve jobs, whose output goes to files in the folder `logs`.

        forking: starts the executions of a job after its first one, which is started by the job's own command unless
        forks_first.
        """
        self._forks_first = forks_first
        self._logs, self._forking = logs, forking
        logs.mkdir(parents=True, exist_ok=True)
        self._jobs: dict[str, dict[str, Any]] = {}
        self._executions: dict[str, _Execution] = {}
        self._asked_to_cancel: set[str] = set()
        self.quota_errors = 0  # so many executions are refused for lack of quota
        self._operations: dict[str, dict[str, Any]] = {}
        self._started: set[str] = set()  # names of the jobs that had an execution
        self._starting = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for execution in self._executions.values():
            if execution.process is not None and execution.process.poll() is None:
                os.killpg(execution.process.pid, signal.SIGKILL)
                execution.process.wait()

    def running(self) -> list[Process]:
        """Return the executions' processes that are still running."""
        processes = [execution.process for execution in self._executions.values()]
        return [process for process in processes if process is not None and process.poll() is None]

    def cancelled(self, execution: str) -> bool:
        """Return whether an execution, by its short name, was asked to cancel."""
        return any(name.endswith(f"/{execution}") for name in self._asked_to_cancel)

    # The API methods; each returns an HTTP status and a body.

    def answer(self, method: str, url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(url)
        path = parts.path.removeprefix("/v2/")
        match method, path.rpartition(":")[2] if ":" in path else path.rpartition("/")[2]:
            case "POST", "jobs":
                return self._create(path, parse_qs(parts.query)["jobId"][0], body)
            case "POST", "run":
                return self._run(path.removesuffix(":run"), body.get("overrides") or {})
            case "POST", "cancel":
                return self._cancel(path.removesuffix(":cancel"))
            case "GET", "executions":
                resources = [e.resource for name, e in self._executions.items() if name.startswith(f"{path}/")]
                return 200, {"executions": resources}
            case "GET", _:
                return self._get(path)
        return _error(404, path)

    def _create(self, parent: str, job_id: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = f"{parent}/{job_id}"
        if name in self._jobs:
            return _error(409, f"{name} already exists", "ALREADY_EXISTS")
        self._jobs[name] = body | {"name": name, "createTime": _now()}
        done = {"@type": f"{TYPE}Job", **self._jobs[name]}
        operation: dict[str, Any] = {
            "name": f"{_location(name)}/operations/{uuid.uuid4()}",
            "done": True,
            "response": done,
        }
        self._operations[operation["name"]] = operation
        return 200, operation

    def _run(self, name: str, overrides: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        job = self._jobs.get(name)
        if job is None:
            return _error(404, f"{name} not found")
        short = f"{name.rpartition('/')[2]}-{uuid.uuid4().hex[:5]}"
        resource: dict[str, Any] = {
            "name": f"{name}/executions/{short}",
            "job": name,
            "createTime": _now(),
            "taskCount": 1,
            "template": {"containers": [{"args": (overrides.get("containerOverrides") or [{}])[0].get("args", [])}]},
        }
        if self.quota_errors > 0:
            self.quota_errors -= 1
            status = {"code": FAILED, "message": "Quota exceeded for GPU allocation"}
            refused = {"name": f"{_location(name)}/operations/{uuid.uuid4()}", "done": True, "error": status}
            self._operations[str(refused["name"])] = refused
            return 200, refused
        operation: dict[str, Any] = {
            "name": f"{_location(name)}/operations/{uuid.uuid4()}",
            "metadata": {"@type": f"{TYPE}Execution", **resource},
            "done": False,
        }
        execution = _Execution(resource, operation)
        self._executions[resource["name"]] = execution
        self._operations[operation["name"]] = operation
        threading.Thread(target=self._execute, args=(job, execution, overrides), daemon=True).start()
        return 200, dict(operation)

    def _cancel(self, name: str) -> tuple[int, dict[str, Any]]:
        execution = self._executions.get(name)
        if execution is None:
            return _error(404, f"{name} not found")
        self._asked_to_cancel.add(name)  # also of one that has just ended by itself
        if execution.operation["done"]:
            return _error(400, f"{name} has ended", "FAILED_PRECONDITION")
        threading.Thread(target=self._end, args=(execution, "cancelled"), daemon=True).start()
        done = {"@type": f"{TYPE}Execution", **execution.resource}
        return 200, {"name": f"{_location(name)}/operations/{uuid.uuid4()}", "done": True, "response": done}

    def _get(self, path: str) -> tuple[int, dict[str, Any]]:
        if path in self._operations:
            return 200, dict(self._operations[path])
        if path in self._executions:
            return 200, dict(self._executions[path].resource)
        return (200, self._jobs[path]) if path in self._jobs else _error(404, f"{path} not found")

    def _execute(self, job: dict[str, Any], execution: _Execution, overrides: dict[str, Any]) -> None:
        template = job["template"]["template"]
        container = template["containers"][0]
        override = (overrides.get("containerOverrides") or [{}])[0]
        short = execution.resource["name"].rpartition("/")[2]
        environment = os.environ | {
            variable["name"]: variable.get("value", "") for variable in container.get("env", [])
        }
        environment |= {variable["name"]: variable.get("value", "") for variable in override.get("env", [])}
        environment |= {"CLOUD_RUN_JOB": job["name"].rpartition("/")[2], "CLOUD_RUN_EXECUTION": short}
        command = [*container["command"], *(override.get("args") or container.get("args", []))]
        with execution.lock:
            if not execution.ended_by:
                execution.process = self._start(job["name"], command, environment, self._logs / f"{short}.log")
        if execution.process is not None:
            self._watch(execution, float((overrides.get("timeout") or template["timeout"]).removesuffix("s")))
        code = None if execution.process is None else execution.process.returncode
        self._record_end(execution, code)

    def _start(self, job: str, command: list[str], environment: dict[str, str], log: Path) -> Process:
        with self._starting:
            is_first = job not in self._started and not self._forks_first
            self._started.add(job)
        if self._forking is not None and not is_first:
            return self._forking.start(command[1:], environment, log)
        with log.open("wb") as output:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _watch(self, execution: _Execution, seconds: float) -> None:
        assert execution.process is not None
        try:
            execution.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._end(execution, "timeout")

    def _end(self, execution: _Execution, why: str) -> None:
        with execution.lock:
            execution.ended_by = why
            process = execution.process
        if process is None or process.poll() is not None:
            return
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _record_end(self, execution: _Execution, code: int | None) -> None:
        succeeded = code == 0 and not execution.ended_by
        message = "" if succeeded else execution.ended_by or f"task exited with {code}"
        state = "CONDITION_SUCCEEDED" if succeeded else "CONDITION_FAILED"
        execution.resource |= {
            "completionTime": _now(),
            "succeededCount": int(succeeded),
            "failedCount": int(not succeeded),
            "cancelledCount": int(execution.ended_by == "cancelled"),
            "conditions": [{"type": "Completed", "state": state, "message": message}],
        }
        if succeeded:
            execution.operation["response"] = {"@type": f"{TYPE}Execution", **execution.resource}
        else:
            kind = CANCELLED if execution.ended_by == "cancelled" else FAILED
            execution.operation["error"] = {"code": kind, "message": message}
        execution.operation["done"] = True


def _handler(standin: CloudRunStandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            status, body = standin.answer(self.command, self.path, json.loads(self.rfile.read(length) or b"{}"))
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _reply

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


def _error(status: int, message: str, kind: str = "NOT_FOUND") -> tuple[int, dict[str, Any]]:
    return status, {"error": {"code": status, "status": kind, "message": message}}


def _location(name: str) -> str:
    return name.partition("/jobs/")[0]


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
