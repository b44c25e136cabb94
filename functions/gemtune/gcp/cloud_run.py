"""Cancellation of Cloud Run job executions; the workflow starts them."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache

from google.api_core.exceptions import FailedPrecondition, NotFound
from google.cloud import run_v2

TIMEOUT = 20.0


def cancel_execution(location: str, execution: str, *, endpoint: str | None = None) -> None:
    """Cancel an execution unless it has ended.

    Its tasks get SIGTERM, and SIGKILL ten seconds later. `location` is `projects/…/locations/…`; `execution` is the
    name in the variable CLOUD_RUN_EXECUTION of a task: the job's name, a dash and five letters.
    """
    job = execution.rpartition("-")[0]
    with suppress(NotFound, FailedPrecondition):
        name = f"{location}/jobs/{job}/executions/{execution}"
        _client(endpoint).cancel_execution(name=name, timeout=TIMEOUT)


def cancel_executions(location: str, job: str, job_id: str, *, endpoint: str | None = None) -> None:
    """Cancel all executions of a Cloud Run job that run a step of this job.

    They are recognized by their arguments, so one that has not begun yet is found too. `job` is the Cloud Run job's
    name, `job_id` the id of our job.
    """
    with suppress(NotFound):
        for execution in _client(endpoint).list_executions(parent=f"{location}/jobs/{job}", timeout=TIMEOUT):
            arguments = [argument for container in execution.template.containers for argument in container.args]
            if not execution.completion_time and job_id in arguments:
                cancel_execution(location, execution.name.rpartition("/")[2], endpoint=endpoint)


@lru_cache(maxsize=1)
def _client(endpoint: str | None) -> run_v2.ExecutionsClient:
    """Return a client for Google's API, or for an emulator's URL."""
    if endpoint is None:
        return run_v2.ExecutionsClient()
    from google.auth.credentials import AnonymousCredentials

    credentials = AnonymousCredentials()  # type: ignore[no-untyped-call]
    options = {"api_endpoint": endpoint}
    return run_v2.ExecutionsClient(credentials=credentials, transport="rest", client_options=options)
