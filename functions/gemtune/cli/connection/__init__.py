"""Calls to the HTTP API, and the output and exit codes for their responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import click

from gemtune.cli.connection.refusals import NO_SERVICE, Refusal
from gemtune.cli.connection.text import echo_message
from gemtune.client.calls import Address, Answer, Call, Operation
from gemtune.client.errors import (
    ClientError,
    NoSingleJob,
    NotAnAnswer,
    Refused,
    SeveralDatasets,
    Unreachable,
    UploadInterrupted,
)
from gemtune.client.profiles import find_address
from gemtune.client.references import find_dataset, find_job
from gemtune.client.transport import Transport

# Exit codes.
REFUSED, FAILED, CANCELLED, UNREACHABLE, INTERRUPTED = 1, 3, 4, 5, 130
# Exit codes by the final status of a job that is followed.
ENDED = {"completed": 0, "failed": FAILED, "cancelled": CANCELLED}


@dataclass
class Connection:
    """Connection to a service.

    url_option: URL that the user gave; None: that of a variable, of a profile or of this machine. profile: name of one.
    """

    url_option: str | None
    as_json: bool
    quiet: bool = False
    profile: str | None = None

    @cached_property
    def address(self) -> Address:
        """Return the service to call, found when it is needed first.

        Raises BadUse.
        """
        return find_address(self.url_option, profile=self.profile)

    @property
    def url(self) -> str:
        """Return the URL of the service."""
        return self.address.url

    def find_job(self, reference: str) -> str:
        """Return the id of a job.

        reference: its id, the beginning or the last part of it, or the job's name. Prints an error and exits with code
        1 if no job fits, or several.
        """
        try:
            return self.run(find_job(reference))
        except NoSingleJob as error:
            if self.as_json or not error.jobs:
                raise self.refuse(str(error), code="job_not_found", hint="`gemtune jobs` lists them") from None
            echo_message(f"{len(error.jobs)} jobs have an id or a name like {reference!r}; say more of the id:")
            for job in error.jobs[:10]:
                echo_message(f"  {job['job_id']}  {job['status']}  {job['job_name']}")
            raise click.exceptions.Exit(REFUSED) from None

    def find_dataset(self, reference: str) -> str:
        """Return the id of a dataset.

        reference: its id, the beginning of it, or the dataset's name. Prints an error and exits with code 1 if several
        datasets fit. The service refuses what fits none.
        """
        try:
            return self.run(find_dataset(reference))
        except SeveralDatasets as error:
            if self.as_json:
                raise self.refuse(str(error), code="no_such_dataset", hint="`gemtune data list` lists them") from None
            count = len(error.datasets)
            echo_message(f"{count} datasets have an id or a name like {reference!r}; say more of the id:")
            for dataset_id, name in error.datasets[:10]:
                echo_message(f"  {dataset_id}  {name or ''}".rstrip())
            raise click.exceptions.Exit(REFUSED) from None

    def refuse(self, message: str, *, code: str, hint: str | None) -> click.exceptions.Exit:
        """Print an error of this program; return what ends the command."""
        Refusal(code, message, hint).print(as_json=self.as_json)
        return click.exceptions.Exit(REFUSED)

    def report_outage(self, error: ClientError, advice: str | None = None) -> int:
        """Print that a service does not respond; return the exit code."""
        if self.as_json:
            Refusal("unreachable", str(error), advice).print(as_json=True)
        else:
            echo_message("\n".join(filter(None, (str(error), advice))))
        return UNREACHABLE

    def call(self, method: str, path: str, **more: Any) -> Any:
        """Send a request and return the decoded response.

        more: further fields of a Call. Prints an error response and exits with code 1, or with 5 if the service does
        not respond.
        """
        with self.reporting_outages():
            return self.ask(method, path, **more)

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """Send a request like `call`, but let Unreachable propagate.

        Exits with code 1 on an error response, as `call` does.
        """
        with self.reporting_refusals():
            return self.transport.send(Call(method, path, **more))

    @property
    def local_port(self) -> int | None:
        """Return the port of a service of this machine; None for another."""
        address = urlsplit(self.url)
        is_local = self.address.is_local and address.scheme == "http" and not address.path.strip("/")
        return (address.port or 80) if is_local else None

    @cached_property
    def transport(self) -> Transport:
        """Return what sends the requests."""
        return Transport(self.address)

    def run(self, operation: Operation[Answer]) -> Answer:
        """Run an operation of the client and return its result.

        Prints errors and exits as `call` does.
        """
        with self.reporting_outages(), self.reporting_refusals():
            return self.transport.run(operation)

    @contextmanager
    def reporting_outages(self) -> Iterator[None]:
        """Print that the service does not respond, and exit with code 5."""
        try:
            yield
        except UploadInterrupted as error:
            advice = "repeat the command to go on: the parts so far are kept"
            raise click.exceptions.Exit(self.report_outage(error, advice)) from None
        except Unreachable as error:
            raise click.exceptions.Exit(self.report_outage(error, NO_SERVICE)) from None

    @contextmanager
    def reporting_refusals(self) -> Iterator[None]:
        """Print an error response and exit with code 1."""
        try:
            yield
        except Refused as error:
            if self.as_json:
                click.echo(error.body, err=True)
            else:
                Refusal(error.code, error.message, error.hint, error.problems).print(as_json=False)
            raise click.exceptions.Exit(REFUSED) from None
        except NotAnAnswer as error:
            raise self.refuse(str(error), code="not_an_answer", hint=_advice(error)) from None

    def print_if_json(self, response: Any) -> bool:
        """Print a response if the user asked for JSON.

        Returns whether it was printed.
        """
        if self.as_json:
            click.echo(json.dumps(response))
        return self.as_json


def _advice(error: NotAnAnswer) -> str:
    """Return what to do about an answer without the header of gemtune."""
    if error.status in (401, 403):
        return "something in front of the service wants a valid token: see `gemtune config set --help`"
    return (
        "specify the address of a gemtune service with --url, or with `gemtune config`; a service of an older gemtune "
        "must be started again, or deployed again"
    )
