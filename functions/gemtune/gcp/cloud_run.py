"""Executions of Cloud Run jobs: cancelled, or started to check a dataset.

The workflow starts the executions of steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property, lru_cache

from google.api_core.exceptions import FailedPrecondition, NotFound
from google.cloud import run_v2

from gemtune.settings import Settings

TIMEOUT = 20.0
# Cloud Run job whose container checks datasets.
CHECKS_RUN_IN = "gemtune-prepare"


class CloudRunChecks:
    """`ports.CheckRunner` on Cloud Run.

    The job's container runs the check instead of a step, because its arguments are overridden.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._location = f"projects/{settings.project_id}/locations/{settings.region}"

    def start(self, dataset_id: str, check_id: str) -> None:
        """Start the execution of a check, without waiting for it."""
        container = run_v2.RunJobRequest.Overrides.ContainerOverride(
            args=["check", "--dataset", dataset_id, "--check", check_id]
        )
        timeout = {"seconds": self._settings.prepare_timeout_seconds}
        overrides = run_v2.RunJobRequest.Overrides(container_overrides=[container], timeout=timeout)
        request = run_v2.RunJobRequest(name=f"{self._location}/jobs/{CHECKS_RUN_IN}", overrides=overrides)
        self._jobs.run_job(request, timeout=TIMEOUT)

    def is_running(self, dataset_id: str, check_id: str) -> bool:
        """Return whether an execution of a check has not ended."""
        return any(True for _ in _running(self._location, CHECKS_RUN_IN, check_id, self._settings.run_endpoint))

    @cached_property
    def _jobs(self) -> run_v2.JobsClient:
        """Return a client of Google's API, or of the stand-in."""
        endpoint = self._settings.run_endpoint
        if endpoint is None:
            return run_v2.JobsClient()
        from google.auth.credentials import AnonymousCredentials

        credentials = AnonymousCredentials()  # type: ignore[no-untyped-call]
        return run_v2.JobsClient(credentials=credentials, transport="rest", client_options={"api_endpoint": endpoint})


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
        for execution in _running(location, job, job_id, endpoint):
            cancel_execution(location, execution, endpoint=endpoint)


def _running(location: str, job: str, argument: str, endpoint: str | None) -> Iterator[str]:
    """Yield the short names of executions that have not ended."""
    for execution in _client(endpoint).list_executions(parent=f"{location}/jobs/{job}", timeout=TIMEOUT):
        arguments = [each for container in execution.template.containers for each in container.args]
        if not execution.completion_time and argument in arguments:
            yield execution.name.rpartition("/")[2]


@lru_cache(maxsize=1)
def _client(endpoint: str | None) -> run_v2.ExecutionsClient:
    """Return a client for Google's API, or for an emulator's URL."""
    if endpoint is None:
        return run_v2.ExecutionsClient()
    from google.auth.credentials import AnonymousCredentials

    credentials = AnonymousCredentials()  # type: ignore[no-untyped-call]
    options = {"api_endpoint": endpoint}
    return run_v2.ExecutionsClient(credentials=credentials, transport="rest", client_options=options)
