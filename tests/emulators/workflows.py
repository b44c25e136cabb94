"""Stand-in for Workflows executions.

Each execution runs workflows/fine_tune.yaml with the engine of the embedded backend; its connector calls the Cloud Run
stand-in through Google's own client.
"""

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
from gemtune.local_server.workflow_engine.reader import load
from tests.emulators.grpc_service import serve

log = logging.getLogger(__name__)

SERVICE = "google.cloud.workflows.executions.v1.Executions"
State = types.Execution.State
WORKFLOW = Path(__file__).parent.parent.parent / "workflows" / "fine_tune.yaml"
# Seconds between two looks at an operation, each of which costs a request, and at whether the execution was cancelled.
OPERATION_SECONDS, STATE_SECONDS = 0.25, 0.1
# So many seconds of the workflow's own waits pass in one second: those for a slot or for quota last 10 to 600.
PACE = 10.0


class _Cancelled(Exception):
    """Raised to end a cancelled execution.

    The workflow cannot catch it, because it is not a WorkflowError.
    """


class WorkflowsStandIn:
    def __init__(self, run_url: str, environment: Mapping[str, str]):
        """Serve executions; `environment` holds the workflow's variables."""
        self.filters = True  # whether ListExecutions accepts a filter
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
        """Return the ids of the executions that are still running."""
        with self._lock:
            return [name.rpartition("/")[2] for name, e in self._executions.items() if e.state == State.ACTIVE]

    def count(self) -> int:
        """Return how many executions were ever created."""
        with self._lock:
            return len(self._executions)

    def lose(self, execution: str) -> None:
        """End an execution without telling anyone, as an outage does."""
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
        """Return the executions, newest first.

        Knows the one filter we use, labels.KEY="VALUE". Labels are returned only in the FULL view.
        """
        if not self.filters and request.filter:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such filter")
        key, _, value = request.filter.removeprefix("labels.").partition("=")
        with self._lock:
            executions = [
                execution
                for name, execution in self._executions.items()
                if name.startswith(f"{request.parent}/")
                and (not key or dict(execution.labels).get(key) == value.strip('"'))
            ]
            if request.view != types.ExecutionView.FULL:
                executions = [types.Execution(name=e.name, state=e.state, start_time=e.start_time) for e in executions]
            return types.ListExecutionsResponse(executions=executions[::-1])

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
            sleep = self._sleep_of(execution, pace=PACE)
            execute(self._workflow, json.loads(execution.argument), calls=calls, environment=environment, sleep=sleep)
            self._finish(execution, State.SUCCEEDED)
        except _Cancelled:
            return
        except Exception as error:
            log.warning("%s failed: %s", execution.name, error)
            self._finish(execution, State.FAILED)

    def _finish(self, execution: Any, state: Any) -> None:
        with self._lock:
            if execution.state == State.ACTIVE:
                execution.state = state

    def _run_job(self, args: Mapping[str, Any], execution: Any) -> dict[str, Any]:
        """Run a Cloud Run job as the connector does: start, poll, return."""
        overrides = args["body"]["overrides"]
        request = {
            "name": args["name"],
            "overrides": {
                "timeout": overrides["timeout"],
                "container_overrides": [{"args": container["args"]} for container in overrides["containerOverrides"]],
            },
        }
        try:
            operation = self._jobs.run_job(request=request)
            while not operation.done():
                self._sleep_of(execution)(OPERATION_SECONDS)
            return {"name": operation.result(timeout=60).name, "succeededCount": 1}
        except GoogleAPICallError as error:
            status = {
                "code": error.grpc_status_code.value[0] if error.grpc_status_code else None,
                "message": error.message,
            }
            refused = {"message": error.message, "tags": ["OperationError"], "operation": {"error": status}}
            raise WorkflowError(refused) from error

    def _sleep_of(self, execution: Any, *, pace: float = 1.0) -> Any:
        pause = threading.Event()

        def sleep(seconds: float) -> None:
            end = datetime.now(UTC).timestamp() + seconds / pace
            while True:
                if execution.state != State.ACTIVE:
                    raise _Cancelled
                left = end - datetime.now(UTC).timestamp()
                if left <= 0:
                    return
                pause.wait(min(left, STATE_SECONDS))

        return sleep
