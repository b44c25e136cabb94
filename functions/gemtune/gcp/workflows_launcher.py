"""Launcher on Cloud Workflows, whose executions run steps as executions of Cloud Run jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

from google.api_core.exceptions import FailedPrecondition, NotFound
from google.cloud.workflows import executions_v1

from gemtune.ports import ExecutionState
from gemtune.settings import Settings

TIMEOUT = 20.0

_State = executions_v1.Execution.State
STATES: Mapping[Any, ExecutionState] = {
    _State.ACTIVE: ExecutionState.ACTIVE,
    _State.QUEUED: ExecutionState.ACTIVE,  # it waits for others of the project to end
    _State.SUCCEEDED: ExecutionState.SUCCEEDED,
    _State.FAILED: ExecutionState.FAILED,
    _State.CANCELLED: ExecutionState.CANCELLED,
    _State.UNAVAILABLE: ExecutionState.GONE,
}


class WorkflowsLauncher:
    """Executions are known by their id alone, as sys.get_env tells it to the workflow."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._location = f"projects/{settings.project_id}/locations/{settings.region}"
        self._workflow = f"{self._location}/workflows/{settings.workflow}"

    @cached_property
    def _client(self) -> executions_v1.ExecutionsClient:
        endpoint = self._settings.workflows_endpoint
        if endpoint is None:
            return executions_v1.ExecutionsClient()
        import grpc
        from google.cloud.workflows.executions_v1.services.executions import transports

        transport = transports.ExecutionsGrpcTransport(channel=grpc.insecure_channel(endpoint))
        return executions_v1.ExecutionsClient(transport=transport)

    def start(self, job_id: str, launch: int) -> str:
        # Creating knows no idempotency key, and a lost answer would start the same launch twice.
        labels = {"job_id": job_id, "launch": str(launch)}
        request = {"parent": self._workflow, "filter": f'labels.job_id="{job_id}"'}
        for execution in self._client.list_executions(request=request, timeout=TIMEOUT):
            if dict(execution.labels) | labels == dict(execution.labels):
                return _id(execution.name)
        argument = json.dumps({"job_id": job_id, "launch": launch})
        wanted = executions_v1.Execution(argument=argument, labels=labels)
        return _id(self._client.create_execution(parent=self._workflow, execution=wanted, timeout=TIMEOUT).name)

    def state(self, execution: str) -> ExecutionState:
        try:
            found = self._client.get_execution(name=self._name(execution), timeout=TIMEOUT)
        except NotFound:
            return ExecutionState.GONE
        return STATES.get(found.state, ExecutionState.ACTIVE)

    def stop(self, execution: str) -> None:
        with suppress(NotFound, FailedPrecondition):  # the latter: it has ended
            self._client.cancel_execution(name=self._name(execution), timeout=TIMEOUT)

    def stop_step(self, execution: str) -> None:
        from gemtune.gcp.cloud_run import cancel_execution

        cancel_execution(self._location, execution, endpoint=self._settings.run_endpoint)

    def _name(self, execution: str) -> str:
        return f"{self._workflow}/executions/{execution}"


def _id(name: str) -> str:
    return name.rpartition("/")[2]
