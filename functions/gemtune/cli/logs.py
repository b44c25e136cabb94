"""The command `logs`: prints the output of a job's steps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import click

from gemtune.cli.connection import Connection, follow, interrupts
from gemtune.cli.connection.completing import job_argument
from gemtune.cli.connection.text import echo_message, local_time
from gemtune.client.errors import Unreachable
from gemtune.jobs.status import Step, is_final

# Seconds between two calls: of a service on this machine, and of one that may read Cloud Logging with each.
POLL_SECONDS, REMOTE_POLL_SECONDS = 1.0, 5.0


@click.command()
@job_argument
@click.option(
    "--step",
    type=click.Choice([step.value for step in Step], case_sensitive=False),
    help="Only the output of one step.",
)
@click.option("--tail", "-n", type=click.IntRange(1), metavar="N", help="Only the last N lines of what is there.")
@click.option("--follow", "-f", "follows", is_flag=True, help="Print new lines until the job is over.")
@click.pass_obj
def logs(connection: Connection, job: str, step: str | None, tail: int | None, follows: bool) -> None:
    """Print the output of the steps of a job, attempt after attempt.

    With --json, each line is an object with step, attempt, time and text.
    """
    job_id = connection.find_job(job)
    reader = LogReader(connection, job_id, step)
    with interrupts.explaining_interrupt(*interrupts.job_goes_on(job_id)) if follows else nullcontext():
        with connection.reporting_outages():
            for line in deque(reader.lines(), tail) if tail is not None else reader.lines():
                reader.print_line(line)
        if follows:
            reader.follow()


class LogReader:
    """Reads the output of a job's steps, page by page."""

    def __init__(self, connection: Connection, job_id: str, step: str | None):
        self._connection, self._job_id = connection, job_id
        self._params: dict[str, str | int] = {} if step is None else {"step": step}
        self._heading: tuple[str, int | None] | None = None

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines that were not read yet. Raises Unreachable."""
        while True:
            page = self._connection.ask("GET", f"/jobs/{self._job_id}/logs", params=self._params)
            yield from page["lines"]
            if page["next_after"] is not None:
                self._params["after"] = page["next_after"]
            if not page["more"]:
                return

    def print_line(self, line: dict[str, Any]) -> None:
        """Print a line, below a heading where another attempt begins."""
        if self._connection.print_if_json(line):
            return
        heading = (line["step"], line["attempt"])
        if heading != self._heading and not self._connection.quiet:
            attempt = "no attempt begun" if line["attempt"] is None else f"attempt {line['attempt']}"
            echo_message(f"--- {line['step']}, {attempt} ---")
        self._heading = heading
        click.echo(line["text"] if line["at"] is None else f"{local_time(line['at'])}  {line['text']}")

    def follow(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Print new lines until the job is over, across outages."""
        pause = REMOTE_POLL_SECONDS if self._connection.local_port is None else POLL_SECONDS
        poller = follow.Poller(self._connection, pause)
        try:
            while True:
                job = poller.get(f"/jobs/{self._job_id}/status")  # before the lines: those of its end are read then
                if job is not None and self._print_new() and is_final(job["status"], job["finished_at"]):
                    return
                sleep(pause)
        except Unreachable as error:
            raise click.exceptions.Exit(self._connection.report_outage(error)) from None

    def _print_new(self) -> bool:
        """Print new lines; return whether the service answered."""
        try:
            for line in self.lines():
                self.print_line(line)
        except Unreachable:
            return False
        return True


COMMANDS = {"logs": logs}
