"""Ends an execution of a Cloud Run job. Starting them is the workflow's part."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache

from google.api_core.exceptions import FailedPrecondition, NotFound
from google.cloud import run_v2

TIMEOUT = 20.0


def cancel_execution(location: str, execution: str, *, endpoint: str | None = None) -> None:
    """Cancel `execution`, named as CLOUD_RUN_EXECUTION tells it to a task: the job's name, a dash, and five letters.
    Nothing happens when it has ended. Its tasks get SIGTERM, and SIGKILL ten seconds later."""
    job = execution.rpartition("-")[0]
    with suppress(NotFound, FailedPrecondition):
        name = f"{location}/jobs/{job}/executions/{execution}"
        _client(endpoint).cancel_execution(name=name, timeout=TIMEOUT)


@lru_cache(maxsize=1)
def _client(endpoint: str | None) -> run_v2.ExecutionsClient:
    """`endpoint` (a URL) is for a stand-in; None is Google's."""
    if endpoint is None:
        return run_v2.ExecutionsClient()
    from google.auth.credentials import AnonymousCredentials

    nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
    options = {"api_endpoint": endpoint}
    return run_v2.ExecutionsClient(credentials=nobody, transport="rest", client_options=options)
