"""Following a job until it is over, across restarts of the service."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from gemtune.cli.connection import (
    ENDED,
    FAILED,
    INTERRUPTED,
    UNREACHABLE,
    Connection,
    interrupts,
    job_lines,
)
from gemtune.cli.connection.hints import as_commands
from gemtune.cli.connection.text import echo_line, echo_message, is_redrawn
from gemtune.client.errors import Unreachable
from gemtune.client.references import short_id
from gemtune.jobs.status import is_final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

POLL_SECONDS = 0.5
# Seconds that a service may be unreachable, for example during a restart.
PATIENCE_SECONDS = 120.0
# Seconds between lines without a terminal, while the status stays the same.
LINE_SECONDS = 5.0
# The phase of a step that has a progress of its own.
TRAINING = "training"
# Columns of a terminal that the text beside a progress bar takes.
BAR_COLUMNS = 72


@dataclass
class Poller:
    """Sends requests to a service that may be unreachable for a while.

    pause_seconds: between two requests.
    """

    connection: Connection
    pause_seconds: float = POLL_SECONDS
    unreachable_seconds: float = 0.0

    def get(self, path: str, **more: Any) -> Any | None:
        """Return the response, or None while the service is unreachable.

        Raises Unreachable after PATIENCE_SECONDS.
        """
        try:
            response = self.connection.ask("GET", path, **more)
        except Unreachable:
            self.unreachable_seconds += self.pause_seconds
            if self.unreachable_seconds > PATIENCE_SECONDS:
                raise
            return None
        self.unreachable_seconds = 0.0
        return response


def follow(
    connection: Connection,
    job_id: str,
    *,
    sleep: Callable[[float], None] = time.sleep,
    interrupt: Callable[[str], int] | None = None,
) -> int:
    """Show a job's progress until it is over; return its exit code.

    In a terminal that is a progress bar, elsewhere a line at each change and every LINE_SECONDS. Ctrl-C ends only the
    following, with INTERRUPTED. interrupt: what it does instead, with the id of the job; returns the exit code.
    """
    poller = Poller(connection)
    try:
        with _display(connection) as show:
            while True:
                job = poller.get(f"/jobs/{job_id}/status")
                show(job)
                if job is not None and is_final(job["status"], job["finished_at"]):
                    break
                sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        return (interrupt or _explain_interrupt)(job_id)
    except Unreachable as error:
        return connection.report_outage(error)
    return print_result(connection, job)


def follow_accepted(connection: Connection, accepted: dict[str, Any], *, to_its_end: bool) -> None:
    """Follow an accepted job if that is wanted, and exit with its result.

    JSON is one document: the status of the job, or `accepted` if the job is not followed to its end.
    """
    job_id = accepted["job_id"]
    if not to_its_end:
        if not connection.print_if_json(accepted) and not connection.quiet and sys.stderr.isatty():
            echo_message(f"See its progress: gemtune watch {short_id(job_id)}")
        return
    if connection.as_json and not connection.quiet:
        echo_message(f"Submitted job {job_id}")
    exit_code = follow(connection, job_id)
    if exit_code in (INTERRUPTED, UNREACHABLE):
        connection.print_if_json(accepted)
    raise click.exceptions.Exit(exit_code)


def print_result(connection: Connection, job: dict[str, Any]) -> int:
    """Print how a job ended, and what to do with it; return its exit code.

    With JSON, print its status instead.
    """
    exit_code = ENDED.get(job["status"], FAILED)  # any final status of a newer service but `completed` is a failure
    if connection.print_if_json(job):
        return exit_code
    if job.get("rows") and not connection.quiet:  # an older service sends no rows
        echo_message(f"rows: {job_lines.format_rows(job['rows'])}")
    if not connection.quiet:
        for title, values in job_lines.format_evaluations(job.get("metrics")):
            echo_message(f"{title}: {values}")
    for warning in job.get("warnings", ()) if not connection.quiet else ():
        echo_message(f"warning: {warning['message']} ({as_commands(warning['hint'])})")
    if job["error"]:
        echo_message(f"{job['error_detail']['code']}: {as_commands(job['error'])}")
        if job["error_detail"].get("hint"):
            echo_message(f"  {as_commands(job['error_detail']['hint'])}")
    elif job["adapter_path"]:
        click.echo(f"{job['status']}: {job['adapter_path']}")
    else:
        click.echo(job["status"])
    if job["adapter_path"] and exit_code == 0 and not connection.quiet:
        echo_message(next_steps(job["job_id"]))
    return exit_code


def next_steps(job_id: str) -> str:
    """Return how to use the result of a completed job."""
    job = short_id(job_id)
    return f'Ask the model: gemtune try {job} "…"\nGet its files: gemtune artifacts {job} --download FOLDER'


def _explain_interrupt(job_id: str) -> int:
    """Say after Ctrl-C that the job goes on; return the exit code."""
    interrupts.explain_interrupt(*interrupts.job_goes_on(job_id))
    return INTERRUPTED


Show = Callable[[dict[str, Any] | None], None]


@contextmanager
def _display(connection: Connection) -> Iterator[Show]:
    """Yield a function that shows a job's status.

    Its argument is None while the service is unreachable.
    """
    from rich.console import Console

    console = Console(stderr=connection.as_json)  # JSON on standard output stays alone
    if connection.quiet:
        yield lambda job: None
    elif not is_redrawn(console):
        yield _Lines().show
    else:
        with _progress_bar(console) as bar:
            task = bar.add_task("waiting", total=None, detail="")

            def show(job: dict[str, Any] | None) -> None:
                fields: dict[str, Any] = {"detail": "waiting for the service"} if job is None else _bar_fields(job)
                if job is not None and job["finished_at"] is not None:
                    fields["took"] = job_lines.seconds_of(job)
                bar.update(task, **fields)

            yield show


def _progress_bar(console: Console) -> Progress:
    """Return a progress bar that fits the terminal.

    In a narrow one it is only text.
    """
    from rich.progress import BarColumn, Progress, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Elapsed(TextColumn):
        """Time since the beginning, and that of the whole job once it is over.

        The column of rich stops when all train_steps are done, before the export.
        """

        def render(self, task: Task) -> Text:
            seconds = task.fields.get("took", task.elapsed) or 0
            return Text(str(timedelta(seconds=round(seconds))), style="progress.elapsed")

    detail = TextColumn("{task.fields[detail]}", table_column=Column(no_wrap=True, overflow="ellipsis"))
    bar = [BarColumn(bar_width=min(40, console.width - BAR_COLUMNS))] if console.width > BAR_COLUMNS + 8 else []
    return Progress(TextColumn("{task.description}"), *bar, detail, Elapsed(""), console=console)


class _Lines:
    """Lines for a pipe or a log file.

    One is printed at each change of the status and of what its step does, and every LINE_SECONDS.
    """

    def __init__(self) -> None:
        self._status: tuple[str, str | None] = ("", None)
        self._last, self._polls = "", 0

    def show(self, job: dict[str, Any] | None) -> None:
        """Print a line if it is time for one."""
        self._polls += 1
        status, phase = ("", None) if job is None else (job["status"], _phase(job))
        detail = "waiting for the service" if job is None else _bar_fields(job)["detail"]
        line = f"{status} {detail}".strip()
        is_due = self._polls * POLL_SECONDS >= LINE_SECONDS and line != self._last
        if (status, phase) != self._status or is_due:
            echo_message(line)
            self._status, self._last, self._polls = (status, phase), line, 0


def _bar_fields(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job's progress bar fields; only training has a total."""
    phase = _phase(job)
    progress = job["progress"] if job["status"] == "training" and phase in (None, TRAINING) else None
    if waiting := job.get("waiting"):  # an older service does not send it
        detail = job_lines.format_waiting(waiting)
        return {"description": job["status"], "total": None, "completed": 0, "detail": detail}
    if job["status"] == "paused" and job.get("pause"):
        return {"description": job["status"], "total": None, "completed": 0, "detail": job_lines.format_pause(job)}
    if progress is None:
        detail = "" if phase is None or phase == job["status"] else phase  # without "training training"
        return {"description": job["status"], "total": None, "completed": 0, "detail": detail}
    counts = {"total": progress["total_steps"], "completed": progress["train_step"]}
    return {"description": job["status"], "detail": job_lines.format_progress(progress), **counts}


def _phase(job: dict[str, Any]) -> str | None:
    """Return what the running step does; an older service does not say it."""
    phases = (step.get("phase") for step in job["steps"].values() if step.get("state") == "running")
    return next(phases, None)


def follow_events(connection: Connection, job_id: str, *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Print each new event of a job until it is over; return its exit code.

    Ctrl-C ends only the following, with INTERRUPTED.
    """
    after, poller = 0, Poller(connection)
    try:
        while True:
            response = poller.get(f"/jobs/{job_id}/events", params={"after": after})
            for event in response["events"] if response is not None else ():
                after = event["seq"]
                if not connection.print_if_json(event):
                    echo_line(job_lines.format_event(event))
                if event["status"] in ENDED:
                    return ENDED[event["status"]]
            sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        return _explain_interrupt(job_id)
    except Unreachable as error:
        return connection.report_outage(error)
