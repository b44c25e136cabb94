"""Follows a job until it is over, through restarts of the service."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from gemtune.cli.connection import ENDED, UNREACHABLE, Connection, Unreachable

LOOK_SECONDS = 0.5
# How long a service may be away, being started again.
PATIENCE_SECONDS = 120.0


def follow(connection: Connection, job_id: str, *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Show a progress bar until the job is over; return the exit code of its end."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("waiting", total=None, detail="")
        away = 0.0
        while True:
            try:
                job = connection.ask("GET", f"/jobs/{job_id}/status")
                away = 0.0
            except Unreachable as error:
                away += LOOK_SECONDS
                if away > PATIENCE_SECONDS:
                    click.echo(str(error), err=True)
                    return UNREACHABLE
                bar.update(task, detail="the service is away; waiting")
                sleep(LOOK_SECONDS)
                continue
            progress = job["progress"] if job["status"] == "training" else None
            total, done = (progress["total_steps"], progress["train_step"]) if progress else (None, 0)
            detail = progress_of(progress) if progress else ""
            bar.update(task, description=job["status"], total=total, completed=done, detail=detail)
            if job["status"] in ENDED:
                break
            sleep(LOOK_SECONDS)
    if job["error"]:
        click.echo(f"{job['error_detail']['code']}: {job['error']}", err=True)
    elif job["adapter_path"]:
        click.echo(f"{job['status']}: {job['adapter_path']}")
    else:
        click.echo(job["status"])
    return ENDED[job["status"]]


def follow_events(connection: Connection, job_id: str, *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Print each event once, as it comes; return the exit code of the job's end."""
    after, away = 0, 0.0
    while True:
        try:
            answer = connection.ask("GET", f"/jobs/{job_id}/events", params={"after": after})
            away = 0.0
        except Unreachable as error:
            away += LOOK_SECONDS
            if away > PATIENCE_SECONDS:
                click.echo(str(error), err=True)
                return UNREACHABLE
            answer = {"events": []}
        for event in answer["events"]:
            after = event["seq"]
            if not connection.show(event):
                click.echo(line_of(event))
            if event["status"] in ENDED:
                return ENDED[event["status"]]
        sleep(LOOK_SECONDS)


def line_of(event: dict[str, Any]) -> str:
    details = ", ".join(f"{name}: {value}" for name, value in event["details"].items() if value is not None)
    return f"{event['seq']:3}  {event['at'][:19]}  {event['type']:20} {details}".rstrip()


def progress_of(progress: dict[str, Any]) -> str:
    """`12/40, loss 1.2345, 830 tokens/s, 35 s to go`, as far as it is known."""
    parts = [f"{progress['train_step']}/{progress['total_steps']}"]
    formats = {"loss": "loss {:.4f}", "tokens_per_second": "{:.0f} tokens/s", "eta_seconds": "{:.0f} s to go"}
    parts += [text.format(progress[name]) for name, text in formats.items() if progress[name] is not None]
    return ", ".join(parts)
