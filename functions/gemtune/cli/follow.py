"""Following a job until it is over, across restarts of the service."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from gemtune.cli.connection import ENDED, FAILED, UNREACHABLE, Connection, Unreachable

POLL_SECONDS = 0.5
# Seconds that a service may be unreachable, for example during a restart.
PATIENCE_SECONDS = 120.0


@dataclass
class _Poller:
    """Sends requests to a service that may be unreachable for a while."""

    connection: Connection
    unreachable_seconds: float = 0.0

    def get(self, path: str, **more: Any) -> Any | None:
        """Return the response, or None while the service is unreachable.

        Raises Unreachable after PATIENCE_SECONDS.
        """
        try:
            response = self.connection.ask("GET", path, **more)
        except Unreachable:
            self.unreachable_seconds += POLL_SECONDS
            if self.unreachable_seconds > PATIENCE_SECONDS:
                raise
            return None
        self.unreachable_seconds = 0.0
        return response


def follow(connection: Connection, job_id: str, *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Show a progress bar until a job is over; return its exit code."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from gemtune.jobs.status import is_final

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn())
    poller = _Poller(connection)
    try:
        with Progress(*columns) as bar:
            task = bar.add_task("waiting", total=None, detail="")
            while True:
                job = poller.get(f"/jobs/{job_id}/status")
                if job is None:
                    bar.update(task, detail="waiting for the service")
                else:
                    bar.update(task, **_bar_fields(job))
                    if is_final(job["status"], job["finished_at"]):
                        break
                sleep(POLL_SECONDS)
    except Unreachable as error:
        click.echo(str(error), err=True)
        return UNREACHABLE
    for warning in job.get("warnings", ()):
        click.echo(f"warning: {warning['message']} ({warning['hint']})", err=True)
    if job["error"]:
        click.echo(f"{job['error_detail']['code']}: {job['error']}", err=True)
    elif job["adapter_path"]:
        click.echo(f"{job['status']}: {job['adapter_path']}")
    else:
        click.echo(job["status"])
    return ENDED.get(job["status"], FAILED)  # any final status of a newer service other than `completed` is a failure


def _bar_fields(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job's progress bar fields; only training has a total."""
    progress = job["progress"] if job["status"] == "training" else None
    if progress is None:
        return {"description": job["status"], "total": None, "completed": 0, "detail": ""}
    counts = {"total": progress["total_steps"], "completed": progress["train_step"]}
    return {"description": job["status"], "detail": format_progress(progress), **counts}


def follow_events(connection: Connection, job_id: str, *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Print each new event of a job until it is over; return its exit code."""
    after, poller = 0, _Poller(connection)
    try:
        while True:
            response = poller.get(f"/jobs/{job_id}/events", params={"after": after})
            for event in response["events"] if response is not None else ():
                after = event["seq"]
                if not connection.print_if_json(event):
                    click.echo(format_event(event))
                if event["status"] in ENDED:
                    return ENDED[event["status"]]
            sleep(POLL_SECONDS)
    except Unreachable as error:
        click.echo(str(error), err=True)
        return UNREACHABLE


def format_event(event: dict[str, Any]) -> str:
    """Format an event as one line: number, time, type and details."""
    values = {name: value for name, value in event["details"].items() if value is not None}
    if "warnings" in values:
        values["warnings"] = "; ".join(warning["message"] for warning in values["warnings"])
    details = ", ".join(f"{name}: {value}" for name, value in values.items())
    return f"{event['seq']:3}  {event['at'][:19]}  {event['type']:20} {details}".rstrip()


def format_progress(progress: dict[str, Any]) -> str:
    """Format progress as `12/40, loss 1.2345, 830 tokens/s, 35 s left`.

    Parts that are not known are left out.
    """
    parts = [f"{progress['train_step']}/{progress['total_steps']}"]
    formats = {
        "loss": "loss {:.4f}",
        "reward": "reward {:.4f}",
        "margin": "margin {:.4f}",
        "tokens_per_second": "{:.0f} tokens/s",
        "eta_seconds": "{:.0f} s left",
    }
    parts += [text.format(progress[name]) for name, text in formats.items() if progress.get(name) is not None]
    return ", ".join(parts)
