"""Calls to the HTTP API, and the output and exit codes for their responses."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    import httpx2

# Exit codes.
REFUSED, FAILED, CANCELLED, UNREACHABLE, INTERRUPTED = 1, 3, 4, 5, 130
# Exit codes by the final status of a job that is followed.
ENDED = {"completed": 0, "failed": FAILED, "cancelled": CANCELLED}
# A whole id, which needs no search (gemtune.jobs.ids).
WHOLE_ID = re.compile(r"(training|export)_[a-z0-9_-]+_[0-9a-f]{12}")
# Pages of jobs that are searched for a part of an id or a name, newest first.
SEARCHED_PAGES, JOBS_PER_PAGE = 10, 200
# Requests of the API that hints name, and the commands for them.
COMMANDS_OF_REQUESTS = (
    (re.compile(r"`?POST /jobs/([^/\s`]+)/(cancel|pause|resume)`?"), r"`gemtune \2 \1`"),
    (re.compile(r"`?POST /jobs/([^/\s`]+)/exports`?"), r"`gemtune export \1`"),
    (re.compile(r"`?GET /jobs/([^/\s`]+)/(status|events|artifacts|metrics)`?"), r"`gemtune \2 \1`"),
    (re.compile(r"`?DELETE /jobs/([^/\s`]+)`?"), r"`gemtune delete \1`"),
    (re.compile(r"`?GET /jobs\b`?"), "`gemtune jobs`"),
    (re.compile(r"`?GET /datasets/([^/\s`:]+)`?"), r"`gemtune data show \1`"),
    (re.compile(r"`?GET /datasets\b`?"), "`gemtune data list`"),
)


class Unreachable(Exception):
    """Raised if the service does not respond."""


@dataclass
class Connection:
    """Connection to a service.

    The ID token for a deployed service comes from the variable GEMTUNE_ID_TOKEN and is never printed.
    """

    url: str
    as_json: bool
    quiet: bool = False

    def find_job(self, reference: str) -> str:
        """Return the id of a job.

        reference: its id, the beginning or the last part of it, or the job's name. Prints an error and exits with code
        1 if no job fits, or several.
        """
        if WHOLE_ID.fullmatch(reference):
            return reference
        matches = [job for job in self._newest_jobs() if _names(reference, job)]
        if len(matches) == 1:
            return str(matches[0]["job_id"])
        if not matches:
            click.echo(f"job_not_found: no job has an id or a name like {reference!r}", err=True)
            click.echo("  `gemtune jobs` lists them", err=True)
        else:
            click.echo(f"{len(matches)} jobs have an id or a name like {reference!r}; say more of the id:", err=True)
            for job in matches[:10]:
                click.echo(f"  {job['job_id']}  {job['status']}  {job['job_name']}", err=True)
        raise click.exceptions.Exit(REFUSED)

    def _newest_jobs(self) -> Iterator[dict[str, Any]]:
        """Yield jobs, newest first, up to a limit."""
        params: dict[str, Any] = {"limit": JOBS_PER_PAGE}
        for _ in range(SEARCHED_PAGES):
            page = self.call("GET", "/jobs", params=params)
            yield from page["jobs"]
            if page["next_page_token"] is None:
                return
            params["page_token"] = page["next_page_token"]

    def call(self, method: str, path: str, **more: Any) -> Any:
        """Send a request and return the decoded response.

        more: further arguments for httpx. Prints an error response and exits with code 1, or with 5 if the service does
        not respond.
        """
        try:
            return self.ask(method, path, **more)
        except Unreachable as error:
            click.echo(f"{error}\nstart a service with `gemtune up`, or specify another one with --url", err=True)
            raise click.exceptions.Exit(UNREACHABLE) from None

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """Send a request like `call`, but let Unreachable propagate.

        Exits with code 1 on an error response, as `call` does.
        """
        import httpx2

        headers = dict(more.pop("headers", {}))
        token = os.environ.get("GEMTUNE_ID_TOKEN")
        if token and self.url.startswith("https://"):
            headers["Authorization"] = f"Bearer {token}"
        try:
            response = self._client.request(method, path, headers=headers, **more)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise Unreachable(f"could not connect to {self.url} ({error})") from error
        if response.status_code in (502, 503, 504):  # from a proxy in front of the service
            raise Unreachable(f"{self.url} answered with HTTP {response.status_code}")
        if not response.is_success:
            self._exit_with_error(response.status_code, response.text)
        return response.json()

    @cached_property
    def _client(self) -> httpx2.Client:
        """Return the HTTP client, created at the first request."""
        import httpx2

        # Without trust_env, httpx ignores the proxy settings, which must not apply to this machine itself.
        local = "://127.0.0.1" in self.url or "://localhost" in self.url
        return httpx2.Client(base_url=self.url, timeout=60, trust_env=not local)

    def print_if_json(self, response: Any) -> bool:
        """Print a response if the user asked for JSON.

        Returns whether it was printed.
        """
        if self.as_json:
            click.echo(json.dumps(response))
        return self.as_json

    def _exit_with_error(self, status: int, text: str) -> NoReturn:
        """Print an error response and exit with code 1."""
        try:
            body = json.loads(text)
            error, problems = body["error"], body.get("problems") or []
        except (ValueError, KeyError, TypeError):
            click.echo(f"{self.url} answered with HTTP {status}: {text[:500]}", err=True)
            raise click.exceptions.Exit(REFUSED) from None
        if self.as_json:
            click.echo(text, err=True)
        elif problems:
            print_problems(problems)
        else:
            click.echo(f"{error['code']}: {error['message']}", err=True)
            if error.get("hint"):
                click.echo(f"  {as_commands(error['hint'])}", err=True)
        raise click.exceptions.Exit(REFUSED)


def _names(reference: str, job: Mapping[str, Any]) -> bool:
    """Return whether a job is meant by a part of its id, or by its name."""
    job_id = str(job["job_id"])
    return job_id.startswith(reference) or job_id.endswith(f"_{reference}") or str(job["job_name"]) == reference


def as_commands(hint: str) -> str:
    """Return a hint of the API with commands instead of requests."""
    for request, command in COMMANDS_OF_REQUESTS:
        hint = request.sub(command, hint)
    return hint


def print_problems(problems: list[dict[str, Any]]) -> None:
    """Print each problem of a request: its field, message, code and hint."""
    for problem in problems:
        field = ".".join(map(str, problem["loc"])) or "request"
        click.echo(f"{field}: {problem['msg']} ({problem['code']})", err=True)
        if problem.get("hint"):
            click.echo(f"  {as_commands(problem['hint'])}", err=True)
