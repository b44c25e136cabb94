"""Commands that look at jobs: watch, wait, metrics, checkpoints, version."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import click

from gemtune import VERSION
from gemtune.cli.connection import INTERRUPTED, Connection, job_lines
from gemtune.cli.connection import follow as following
from gemtune.cli.connection.completing import complete_jobs, job_argument
from gemtune.cli.connection.text import echo_columns, echo_message, is_redrawn, local_time
from gemtune.client.errors import Unreachable
from gemtune.client.references import short_id

# Jobs that `watch` shows without a job, and the columns before their ids, with the longest values.
SHOWN_JOBS = 20
SHOWN = {"created": "08:00:00", "status": "completed"}
# Characters that a table takes beside ids, with some of a name.
OTHER_COLUMNS = 40


@click.command()
@click.argument("job", required=False, shell_complete=complete_jobs)
@click.pass_obj
def watch(connection: Connection, job: str | None) -> None:
    """Show the progress of a job until it is over, and exit with its result.

    Without JOB, show the newest jobs until Ctrl-C.
    """
    if job is not None:
        raise click.exceptions.Exit(following.follow(connection, connection.find_job(job)))
    _watch_list(connection)


@click.command()
@job_argument
@click.pass_obj
def wait(connection: Connection, job: str) -> None:
    """Wait for the end of a job and exit with its result, without progress."""
    connection.quiet = True
    raise click.exceptions.Exit(following.follow(connection, connection.find_job(job)))


@click.command()
@job_argument
@click.option("--after", type=click.IntRange(0), help="Only entries with a higher train_step.")
@click.pass_obj
def metrics(connection: Connection, job: str, after: int | None) -> None:
    """Print the loss history of a training."""
    params = {} if after is None else {"after": after}
    job_id = connection.find_job(job)
    response = connection.call("GET", f"/jobs/{job_id}/metrics", params=params)
    if connection.print_if_json(response):
        return
    for entry in response["metrics"]:
        echo_columns([f"{name} {_value(name, value)}" for name, value in entry.items() if value is not None])
    if not response["metrics"] and not connection.quiet:
        echo_message(f"Job {job_id} has no metrics" + ("" if after is None else f" after train_step {after}"))


@click.command()
@job_argument
@click.pass_obj
def checkpoints(connection: Connection, job: str) -> None:
    """List the checkpoints of a job that trains.

    `gemtune try JOB --checkpoint TRAIN_STEP` asks one of them. They are deleted when the training is finished.
    """
    job_id = connection.find_job(job)
    response = connection.call("GET", f"/jobs/{job_id}/checkpoints")
    if connection.print_if_json(response):
        return
    for each in response["checkpoints"]:
        metrics = job_lines.format_metrics(each["metrics"] or {})
        size = f"{each['bytes'] / 1e6:,.1f} MB"
        mark = "best" if each["is_best"] else ""
        echo_columns([f"{each['train_step']:7}", local_time(each["saved_at"]), f"{size:>12}", metrics, mark])
    if not response["checkpoints"] and not connection.quiet:
        status = connection.call("GET", f"/jobs/{job_id}/status")
        reason = "has none yet"
        if status["steps"]["train"]["state"] == "done":
            asks = f"`gemtune try {short_id(job_id)}` asks the trained model"
            reason = f"has none any more, as its training is finished; {asks}"
        echo_message(f"Job {job_id} {reason}")


@click.command()
@click.pass_obj
def version(connection: Connection) -> None:
    """Print the versions of this program and of the service."""
    versions: dict[str, str | None] = {"client": VERSION, "service": None}
    with suppress(Unreachable):
        versions["service"] = connection.ask("GET", "/health").get("version", "an older one")
    if not connection.print_if_json({**versions, "url": connection.url}):
        click.echo(f"gemtune {versions['client']}")
        click.echo(f"service {versions['service'] or 'does not answer'} at {connection.url}")


def _watch_list(connection: Connection) -> None:
    """Show the newest jobs until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    poller, console = following.Poller(connection), Console()
    if not is_redrawn(console):
        raise click.UsageError("without a terminal, say which job to watch, or list them with `gemtune jobs`")
    try:
        with Live(console=console, refresh_per_second=4) as live:
            while True:
                page = poller.get("/jobs", params={"limit": min(SHOWN_JOBS, max(1, console.height - 3))})
                if page is not None:
                    live.update(_table(page["jobs"], console.width))
                time.sleep(following.POLL_SECONDS)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(INTERRUPTED) from None
    except Unreachable as error:
        raise click.exceptions.Exit(connection.report_outage(error)) from None


def _table(jobs: list[dict[str, Any]], width: int) -> Any:
    """Return a table of jobs that fits the terminal.

    A narrow one shows the last part of each id, which names a job as well. The names are cut first.
    """
    from rich import box
    from rich.table import Column, Table

    is_narrow = any(width < OTHER_COLUMNS + len(job["job_id"]) for job in jobs)
    fixed = [Column(name, no_wrap=True, min_width=len(longest)) for name, longest in SHOWN.items()]
    ids = [short_id(job["job_id"]) if is_narrow else job["job_id"] for job in jobs]
    job_column = Column("job", no_wrap=True, min_width=max(map(len, ids), default=0))
    table = Table(*fixed, job_column, Column("name", no_wrap=True), box=box.SIMPLE, pad_edge=False)
    for job, job_id in zip(jobs, ids, strict=True):
        table.add_row(local_time(job["created_at"])[11:], job["status"], job_id, job["job_name"])
    return table


def _value(name: str, value: Any) -> str:
    if name == "at":
        return local_time(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


COMMANDS = {c.name: c for c in (watch, wait, metrics, checkpoints, version)}
