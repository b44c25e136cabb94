"""Follows a job until it is over, through restarts of the service."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from gemtune.cli.connection import ENDED, FAILED, UNREACHABLE, Connection, Unreachable

LOOK_SECONDS = 0.5
# How long a service may be away, being started again.
PATIENCE_SECONDS = 120.0


@dataclass
class _Patient:
    """Asks a service that may be away for a while."""

    connection: Connection
    away_seconds: float = 0.0

    def ask(self, path: str, **more: Any) -> Any | None:
        """The answer; None while the service is away. Raises Unreachable when it stays away."""
        try:
            answer = self.connection.ask("GET", path, **more)
        except Unreachable:
            self.away_seconds += LOOK_SECONDS
            if self.away_seconds > PATIENCE_SECONDS:
                raise
            return None
        self.away_seconds = 0.0
        return answer


def follow(connection: Connection, job_id: str, *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Show a progress bar until the job is over; return the exit code of its end."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from gemtune.jobs.status import is_final

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn())
    patient = _Patient(connection)
    try:
        with Progress(*columns) as bar:
            task = bar.add_task("waiting", total=None, detail="")
            while True:
                job = patient.ask(f"/jobs/{job_id}/status")
                if job is None:
                    bar.update(task, detail="the service is away; waiting")
                else:
                    bar.update(task, **_shown(job))
                    if is_final(job["status"], job["finished_at"]):
                        break
                sleep(LOOK_SECONDS)
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
    return ENDED.get(job["status"], FAILED)  # a newer service may know more ways to end, none of which completes


def _shown(job: dict[str, Any]) -> dict[str, Any]:
    """What the bar shows of a job: how far the training is, while there is one."""
    progress = job["progress"] if job["status"] == "training" else None
    if progress is None:
        return {"description": job["status"], "total": None, "completed": 0, "detail": ""}
    far = {"total": progress["total_steps"], "completed": progress["train_step"]}
    return {"description": job["status"], "detail": progress_of(progress), **far}


def follow_events(connection: Connection, job_id: str, *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Print each event once, as it comes; return the exit code of the job's end."""
    after, patient = 0, _Patient(connection)
    try:
        while True:
            answer = patient.ask(f"/jobs/{job_id}/events", params={"after": after})
            for event in answer["events"] if answer is not None else ():
                after = event["seq"]
                if not connection.show(event):
                    click.echo(line_of(event))
                if event["status"] in ENDED:
                    return ENDED[event["status"]]
            sleep(LOOK_SECONDS)
    except Unreachable as error:
        click.echo(str(error), err=True)
        return UNREACHABLE


def line_of(event: dict[str, Any]) -> str:
    said = {name: value for name, value in event["details"].items() if value is not None}
    if "warnings" in said:
        said["warnings"] = "; ".join(warning["message"] for warning in said["warnings"])
    details = ", ".join(f"{name}: {value}" for name, value in said.items())
    return f"{event['seq']:3}  {event['at'][:19]}  {event['type']:20} {details}".rstrip()


def progress_of(progress: dict[str, Any]) -> str:
    """`12/40, loss 1.2345, 830 tokens/s, 35 s to go`, as far as it is known."""
    parts = [f"{progress['train_step']}/{progress['total_steps']}"]
    formats = {
        "loss": "loss {:.4f}",
        "reward": "reward {:.4f}",
        "margin": "margin {:.4f}",
        "tokens_per_second": "{:.0f} tokens/s",
        "eta_seconds": "{:.0f} s to go",
    }
    parts += [text.format(progress[name]) for name, text in formats.items() if progress.get(name) is not None]
    return ", ".join(parts)
