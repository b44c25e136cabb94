"""A stand-in for Workflows executions: each runs workflows/fine_tune.yaml with the engine of the embedded backend, and
its connector calls the Cloud Run stand-in with Google's own client."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx2
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.cloud import run_v2
from google.cloud.workflows.executions_v1 import types

from gemtune.local_server.workflow_engine.errors import WorkflowError
from gemtune.local_server.workflow_engine.http_calls import http_post
from gemtune.local_server.workflow_engine.interpreter import execute
from gemtune.local_server.workflow_engine.syntax import load
from tests.emulators.grpc_service import serve

log = logging.getLogger(__name__)

SERVICE = "google.cloud.workflows.executions.v1.Executions"
State = types.Execution.State
WORKFLOW = Path(__file__).parent.parent.parent / "workflows" / "fine_tune.yaml"
LOOK_SECONDS = 0.1


class _Cancelled(Exception):
    """Not an error of the workflow, so it cannot catch it."""


class WorkflowsStandIn:
    def __init__(self, run_url: str, environment: Mapping[str, str]):
        """`environment`: CONTROL_URL and RUN_PARENT, as the deployed workflow has them."""
        self.filters = True  # whether it understands filters
        self._workflow = load(WORKFLOW)
        self._environment = environment
        self._executions: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._client = httpx2.Client(timeout=240, trust_env=False)
        options = {"api_endpoint": run_url}
        self._jobs = run_v2.JobsClient(credentials=AnonymousCredentials(), transport="rest", client_options=options)
        methods = {
            "CreateExecution": (self._create, types.CreateExecutionRequest, types.Execution),
            "GetExecution": (self._get, types.GetExecutionRequest, types.Execution),
            "ListExecutions": (self._list, types.ListExecutionsRequest, types.ListExecutionsResponse),
            "CancelExecution": (self._cancel, types.CancelExecutionRequest, types.Execution),
        }
        self._server, self.address = serve(SERVICE, methods)

    def stop(self) -> None:
        self._server.stop(None)
        with self._lock:
            for execution in self._executions.values():
                if execution.state == State.ACTIVE:
                    execution.state = State.CANCELLED

    def active(self) -> list[str]:
        """Ids of the executions that run."""
        with self._lock:
            return [name.rpartition("/")[2] for name, e in self._executions.items() if e.state == State.ACTIVE]

    def count(self) -> int:
        """Of all executions that were ever created."""
        with self._lock:
            return len(self._executions)

    def lose(self, execution: str) -> None:
        """End an execution as an outage would: without a word to anyone."""
        with self._lock:
            name = next(name for name in self._executions if name.endswith(f"/{execution}"))
            self._executions[name].state = State.FAILED

    def _create(self, request: Any, context: grpc.ServicerContext) -> Any:
        execution = types.Execution(
            name=f"{request.parent}/executions/{uuid.uuid4()}",
            argument=request.execution.argument,
            labels=dict(request.execution.labels),
            state=State.ACTIVE,
            start_time=datetime.now(UTC),
        )
        with self._lock:
            self._executions[execution.name] = execution
        threading.Thread(target=self._run, args=(execution,), daemon=True).start()
        return execution

    def _get(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            if request.name not in self._executions:
                context.abort(grpc.StatusCode.NOT_FOUND, f"{request.name} not found")
            return self._executions[request.name]

    def _list(self, request: Any, context: grpc.ServicerContext) -> Any:
        """The one filter that is used: labels.KEY="VALUE". Unless asked for FULL, an execution comes without labels."""
        if not self.filters and request.filter:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such filter")
        key, _, value = request.filter.removeprefix("labels.").partition("=")
        with self._lock:
            found = [
                execution
                for name, execution in self._executions.items()
                if name.startswith(f"{request.parent}/")
                and (not key or dict(execution.labels).get(key) == value.strip('"'))
            ]
            if request.view != types.ExecutionView.FULL:
                found = [types.Execution(name=e.name, state=e.state, start_time=e.start_time) for e in found]
            return types.ListExecutionsResponse(executions=found[::-1])

    def _cancel(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            execution = self._get(request, context)
            if execution.state != State.ACTIVE:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it has ended")
            execution.state = State.CANCELLED
            return execution

    def _run(self, execution: Any) -> None:
        environment = dict(self._environment) | {
            "GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID": execution.name.rpartition("/")[2]
        }
        calls = {
            "http.post": lambda args: http_post(args, client=self._client, id_token=lambda url: "fake-token"),
            "googleapis.run.v2.projects.locations.jobs.run": lambda args: self._run_job(args, execution),
        }
        try:
            sleep = self._sleep_of(execution)
            execute(self._workflow, json.loads(execution.argument), calls=calls, environment=environment, sleep=sleep)
            self._ended(execution, State.SUCCEEDED)
        except _Cancelled:
            return
        except Exception as error:
            log.warning("%s failed: %s", execution.name, error)
            self._ended(execution, State.FAILED)

    def _ended(self, execution: Any, state: Any) -> None:
        with self._lock:
            if execution.state == State.ACTIVE:
                execution.state = state

    def _run_job(self, args: Mapping[str, Any], execution: Any) -> dict[str, Any]:
        """What the connector does: run, poll the operation, return the execution or raise."""
        overrides = args["body"]["overrides"]
        wanted = {
            "name": args["name"],
            "overrides": {
                "timeout": overrides["timeout"],
                "container_overrides": [{"args": one["args"]} for one in overrides["containerOverrides"]],
            },
        }
        try:
            operation = self._jobs.run_job(request=wanted)
            while not operation.done():
                self._sleep_of(execution)(LOOK_SECONDS)
            return {"name": operation.result(timeout=60).name, "succeededCount": 1}
        except GoogleAPICallError as error:
            raise WorkflowError({"message": error.message, "tags": ["OperationError"]}) from error

    def _sleep_of(self, execution: Any) -> Any:
        pause = threading.Event()

        def sleep(seconds: float) -> None:
            end = datetime.now(UTC).timestamp() + seconds
            while True:
                if execution.state != State.ACTIVE:
                    raise _Cancelled
                left = end - datetime.now(UTC).timestamp()
                if left <= 0:
                    return
                pause.wait(min(left, LOOK_SECONDS))

        return sleep
