"""Refusals of commands: text for people, or the JSON of the API's errors."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import click

from gemtune.cli.connection.hints import as_commands
from gemtune.cli.connection.text import echo_message
from gemtune.client.errors import field_of
from gemtune.errors import GemtuneError, RequestRefused

NO_SERVICE = "start a service with `gemtune up`, or specify another one with --url"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Reason why a command does not do what it was asked for.

    code: for programs. problems: all of a request's, each as the API has it.
    """

    code: str
    message: str
    hint: str | None = None
    problems: Sequence[dict[str, Any]] = ()

    def document(self) -> str:
        """Return the refusal as the API would answer it."""
        error = {"code": self.code, "message": self.message, "hint": self.hint}
        problems = {"problems": [*self.problems]} if self.problems else {}
        return json.dumps({"error": error, **problems})

    def print(self, *, as_json: bool) -> None:
        """Print the refusal to standard error."""
        if as_json:
            click.echo(self.document(), err=True)
        elif self.problems:
            for problem in self.problems:
                field = re.sub(r"^query\.(\w+)$", _option, field_of(problem))
                _print_lines(f"{field}: {problem['msg']} ({problem['code']})", problem.get("hint"))
        else:
            _print_lines(f"{self.code}: {as_commands(self.message)}", self.hint)


def refusal_of(error: GemtuneError) -> Refusal:
    """Return what an error says to a user."""
    problems = error.problems if isinstance(error, RequestRefused) else ()
    return Refusal(error.code, error.message, error.hint, [problem.to_json() for problem in problems])


class DocumentedError(click.ClickException):
    """Error that click prints as JSON."""

    def __init__(self, refusal: Refusal):
        super().__init__(refusal.message)
        self.refusal = refusal

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the error. file: not used; it goes to standard error."""
        self.refusal.print(as_json=True)


class DocumentedUse(DocumentedError):
    """Error of the use of a command that click prints as JSON."""

    exit_code = click.UsageError.exit_code


def _option(match: re.Match[str]) -> str:
    """Return the option of a command that is a parameter of a query."""
    return f"--{match[1].replace('_', '-')}"


def _print_lines(line: str, hint: str | None) -> None:
    echo_message(line)
    if hint:
        echo_message(f"  {as_commands(hint)}")
