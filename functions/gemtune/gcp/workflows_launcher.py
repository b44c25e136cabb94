"""Launcher on Cloud Workflows.

A workflow execution runs the steps of a job as executions of Cloud Run jobs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from google.api_core.exceptions import FailedPrecondition, InvalidArgument, NotFound

from gemtune.ports import ExecutionState
from gemtune.settings import Settings

if TYPE_CHECKING:
    from google.cloud.workflows import executions_v1

TIMEOUT = 20.0

# From google.cloud.workflows.executions.v1.Execution.State. A queued execution waits for others of the project to end.
STATES: Mapping[str, ExecutionState] = {
    "ACTIVE": ExecutionState.ACTIVE,
    "QUEUED": ExecutionState.ACTIVE,
    "SUCCEEDED": ExecutionState.SUCCEEDED,
    "FAILED": ExecutionState.FAILED,
    "CANCELLED": ExecutionState.CANCELLED,
    "UNAVAILABLE": ExecutionState.GONE,
}


class WorkflowsLauncher:
    """`ports.Launcher` on Cloud Workflows.

    It identifies an execution by the short id that the workflow reads with `sys.get_env`, not by its full name.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._location = f"projects/{settings.project_id}/locations/{settings.region}"
        self._workflow = f"{self._location}/workflows/{settings.workflow}"

    @cached_property
    def _client(self) -> executions_v1.ExecutionsClient:
        """Return the client of Google's API or of the emulator."""
        from google.cloud.workflows import executions_v1

        endpoint = self._settings.workflows_endpoint
        if endpoint is None:
            return executions_v1.ExecutionsClient()
        import grpc
        from google.cloud.workflows.executions_v1.services.executions import transports

        transport = transports.ExecutionsGrpcTransport(channel=grpc.insecure_channel(endpoint))
        return executions_v1.ExecutionsClient(transport=transport)

    def start(self, job_id: str, launch: int) -> str:
        """Start a workflow execution unless the launch has one."""
        # The API has no idempotency key. This search keeps a retry after a lost response from starting a launch twice.
        labels = {"job_id": job_id, "launch": str(launch)}
        for execution in self._list(job_id):
            if dict(execution.labels) | labels == dict(execution.labels):
                return _id(execution.name)
        argument = json.dumps({"job_id": job_id, "launch": launch})
        request = {"parent": self._workflow, "execution": {"argument": argument, "labels": labels}}
        return _id(self._client.create_execution(request=request, timeout=TIMEOUT).name)

    def state(self, execution: str) -> ExecutionState:
        """Return an execution's state; GONE if it was deleted."""
        try:
            resource = self._client.get_execution(name=self._name(execution), timeout=TIMEOUT)
        except NotFound:
            return ExecutionState.GONE
        return STATES.get(resource.state.name, ExecutionState.ACTIVE)

    def stop(self, execution: str) -> None:
        """Cancel an execution unless it has ended."""
        with suppress(NotFound, FailedPrecondition):  # FailedPrecondition: it has ended
            self._client.cancel_execution(name=self._name(execution), timeout=TIMEOUT)

    def stop_step(self, execution: str) -> None:
        """Cancel the Cloud Run execution of a step."""
        from gemtune.gcp.cloud_run import cancel_execution

        cancel_execution(self._location, execution, endpoint=self._settings.run_endpoint)

    def stop_steps(self, cloud_run_job: str, job_id: str) -> None:
        """Cancel the Cloud Run executions of a job's step."""
        from gemtune.gcp.cloud_run import cancel_executions

        cancel_executions(self._location, cloud_run_job, job_id, endpoint=self._settings.run_endpoint)

    def _list(self, job_id: str) -> Iterable[executions_v1.Execution]:
        """List a job's executions, newest first.

        Uses the full view, which has the labels.
        """
        request = {"parent": self._workflow, "view": "FULL", "filter": f'labels.job_id="{job_id}"'}
        try:
            return self._client.list_executions(request=request, timeout=TIMEOUT)
        except InvalidArgument:
            # The documentation says that labels can be filtered by, but not with which syntax. If the filter is
            # rejected, the newest page of all executions is enough: a lost response is at most minutes old.
            page = self._client.list_executions(request=request | {"filter": ""}, timeout=TIMEOUT)
            return next(iter(page.pages)).executions

    def _name(self, execution: str) -> str:
        """Return an execution's full name."""
        return f"{self._workflow}/executions/{execution}"


def _id(name: str) -> str:
    """Return the short id at the end of an execution's full name."""
    return name.rpartition("/")[2]
