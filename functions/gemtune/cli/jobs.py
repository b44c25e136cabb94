"""Commands that speak to a service: submit, look, follow, cancel, delete."""

from __future__ import annotations

from typing import Any

import click

from gemtune.cli import follow as following
from gemtune.cli import request_file
from gemtune.cli.connection import Connection


@click.command()
@click.argument("file")
@click.option("--follow", is_flag=True, help="Stay until the job is over; its end is the exit code.")
@click.option("--idempotency-key", metavar="KEY", help="The same key and request again are the same job.")
@click.pass_obj
def train(connection: Connection, file: str, follow: bool, idempotency_key: str | None) -> None:
    """Submit the request in FILE (JSON or YAML, - for standard input)."""
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    answer = connection.call("POST", "/train", json=request_file.read(file), headers=headers)
    if not connection.show(answer):
        click.echo(answer["job_id"])
    if follow:
        raise click.exceptions.Exit(following.follow(connection, answer["job_id"]))


@click.command()
@click.option("--status", help="Only jobs in this status.")
@click.option("--modality", help="Only text, or only vision.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="Jobs to show at most.")
@click.pass_obj
def jobs(connection: Connection, status: str | None, modality: str | None, limit: int) -> None:
    """List jobs, newest first."""
    wanted = {"status": status, "modality": modality, "limit": limit}
    answer = connection.call(
        "GET", "/jobs", params={name: value for name, value in wanted.items() if value is not None}
    )
    if connection.show(answer):
        return
    for job in answer["jobs"]:
        click.echo(f"{job['created_at'][:19]}  {job['status']:10}  {job['job_id']}  {job['job_name']}")
    if answer["next_page_token"]:
        click.echo("there are more; raise --limit, or filter", err=True)


@click.command()
@click.argument("job_id")
@click.pass_obj
def status(connection: Connection, job_id: str) -> None:
    """Show one job."""
    answer = connection.call("GET", f"/jobs/{job_id}/status")
    if not connection.show(answer):
        _print_job(answer)


@click.command()
@click.argument("job_id")
@click.option("--follow", is_flag=True, help="Go on until the job is over; its end is the exit code.")
@click.pass_obj
def events(connection: Connection, job_id: str, follow: bool) -> None:
    """Show what happened to a job."""
    if follow:
        raise click.exceptions.Exit(following.follow_events(connection, job_id))
    answer = connection.call("GET", f"/jobs/{job_id}/events")
    if not connection.show(answer):
        for event in answer["events"]:
            click.echo(following.line_of(event))


@click.command()
@click.argument("job_id")
@click.pass_obj
def cancel(connection: Connection, job_id: str) -> None:
    """End a job for good."""
    answer = connection.call("POST", f"/jobs/{job_id}/cancel")
    if not connection.show(answer):
        click.echo(f"{job_id} is {answer['status']}")


@click.command()
@click.argument("job_id")
@click.pass_obj
def delete(connection: Connection, job_id: str) -> None:
    """Remove a job that is over, with everything it left."""
    answer = connection.call("DELETE", f"/jobs/{job_id}")
    if not connection.show(answer):
        click.echo(f"{job_id} is deleted")


def _print_job(job: dict[str, Any]) -> None:
    from gemtune.jobs.record import EvaluationMetrics

    for name in (
        "job_id",
        "parent_job_id",
        "job_name",
        "status",
        "base_model_id",
        "processed_dataset_id",
        "created_at",
        "adapter_path",
        "wandb_url",
    ):
        if job[name] is not None:
            click.echo(f"{name + ':':22}{job[name]}")
    for name, step in job["steps"].items():
        cause = f", {step['cause']}" if step["cause"] else ""
        click.echo(f"{name + ':':22}{step['state']}, attempt {step['attempt']}, {step['seconds']:.1f} s{cause}")
    if job["progress"]:
        click.echo(f"{'progress:':22}{following.progress_of(job['progress'])}")
    for title, figures in (("metrics:", job["metrics"]), ("base model:", (job["metrics"] or {}).get("baseline"))):
        shown = EvaluationMetrics.model_validate(
            {n: (figures or {}).get(n) for n in EvaluationMetrics.model_fields}
        ).by_name()
        if shown:
            whose = (figures or {}).get("train_step")
            after = "" if whose is None else f", after train_step {whose}"
            click.echo(f"{title:22}{', '.join(f'{name} {value:.4f}' for name, value in shown.items())}{after}")
    for warning in job.get("warnings", ()):  # a service of an older version has none
        click.echo(f"{'warning:':22}{warning['message']} ({warning['hint']})")
    if job["error"]:
        click.echo(f"{'error:':22}{job['error']} ({job['error_detail']['code']})")
        if job["error_detail"]["hint"]:
            click.echo(f"{'':22}{job['error_detail']['hint']}")


COMMANDS = {c.name: c for c in (train, jobs, status, events, cancel, delete)}
