"""Calls of the HTTP API, and what the command line makes of their answers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    import httpx2

REFUSED, FAILED, CANCELLED, UNREACHABLE = 1, 3, 4, 5
ENDED = {"completed": 0, "failed": FAILED, "cancelled": CANCELLED}


class Unreachable(Exception):
    """The service did not answer."""


@dataclass
class Connection:
    """A service by its URL. An identity token for a deployed one comes from GEMTUNE_ID_TOKEN and is never shown."""

    url: str
    as_json: bool

    def call(self, method: str, path: str, **more: Any) -> Any:
        """The decoded answer. An answer that refuses is explained and ends the program with 1; no answer, with 5."""
        try:
            return self.ask(method, path, **more)
        except Unreachable as error:
            click.echo(f"{error}\nstart it with `gemtune up`, or name another with --url", err=True)
            raise click.exceptions.Exit(UNREACHABLE) from None

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """The same, but raises Unreachable."""
        import httpx2

        headers = dict(more.pop("headers", {}))
        token = os.environ.get("GEMTUNE_ID_TOKEN")
        if token and self.url.startswith("https://"):
            headers["Authorization"] = f"Bearer {token}"
        try:
            answer = self._client.request(method, path, headers=headers, **more)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise Unreachable(f"{self.url} does not answer ({error})") from error
        if answer.status_code in (502, 503, 504):  # something in front of the service
            raise Unreachable(f"{self.url} answers {answer.status_code}")
        if not answer.is_success:
            self._explain(answer.status_code, answer.text)
        return answer.json()

    @cached_property
    def _client(self) -> httpx2.Client:
        import httpx2

        # A proxy has no business between this machine and itself.
        local = "://127.0.0.1" in self.url or "://localhost" in self.url
        return httpx2.Client(base_url=self.url, timeout=60, trust_env=not local)

    def show(self, answer: Any) -> bool:
        """Print an answer if JSON is wanted; whether it was."""
        if self.as_json:
            click.echo(json.dumps(answer))
        return self.as_json

    def _explain(self, status: int, text: str) -> NoReturn:
        try:
            body = json.loads(text)
            error, problems = body["error"], body.get("problems") or []
        except (ValueError, KeyError, TypeError):
            click.echo(f"{self.url} answers {status}: {text[:500]}", err=True)
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
    """Each problem of a request: where, what, and what to do."""
    for problem in problems:
        where = ".".join(map(str, problem["loc"])) or "request"
        click.echo(f"{where}: {problem['msg']} ({problem['code']})", err=True)
        if problem.get("hint"):
            click.echo(f"  {problem['hint']}", err=True)
