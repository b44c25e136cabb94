"""Calls to the HTTP API, and the output and exit codes for their responses."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    import httpx2

# Exit codes.
REFUSED, FAILED, CANCELLED, UNREACHABLE = 1, 3, 4, 5
# Exit codes by the final status of a job that is followed.
ENDED = {"completed": 0, "failed": FAILED, "cancelled": CANCELLED}


class Unreachable(Exception):
    """Raised if the service does not respond."""


@dataclass
class Connection:
    """Connection to a service.

    The ID token for a deployed service comes from the variable GEMTUNE_ID_TOKEN and is never printed.
    """

    url: str
    as_json: bool

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
                click.echo(f"  {error['hint']}", err=True)
        raise click.exceptions.Exit(REFUSED)


def print_problems(problems: list[dict[str, Any]]) -> None:
    """Print each problem of a request: its field, message, code and hint."""
    for problem in problems:
        field = ".".join(map(str, problem["loc"])) or "request"
        click.echo(f"{field}: {problem['msg']} ({problem['code']})", err=True)
        if problem.get("hint"):
            click.echo(f"  {problem['hint']}", err=True)
