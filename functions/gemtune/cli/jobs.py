"""Commands for jobs: train, jobs, status, events, and what changes a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import click

from gemtune.cli import data as datasets
from gemtune.cli.connection import Connection, job_lines, plans
from gemtune.cli.connection import follow as following
from gemtune.cli.connection.completing import AnyCase, job_argument
from gemtune.cli.connection.hints import as_commands
from gemtune.cli.connection.interrupts import explaining_interrupt, may_be_accepted
from gemtune.cli.connection.starting import confirm, confirm_option, offer_service
from gemtune.cli.connection.text import echo_columns, echo_line, echo_message, local_time
from gemtune.cli.request import described
from gemtune.cli.request import options as train_options
from gemtune.cli.request.described import DescribedTraining
from gemtune.client import operations, references
from gemtune.datasets.files import hub_dataset
from gemtune.handlers.answers import Planned
from gemtune.jobs.parts.results import CAP_BELOW_PLAN
from gemtune.jobs.status import Status
from gemtune.methods import Modality


@click.command()
@click.argument("file", required=False)
@train_options.with_options
@click.option("--print", "prints", is_flag=True, help="Print the request, and neither upload nor submit anything.")
@click.option("--dry-run", is_flag=True, help="Show what the job would take, and create nothing.")
@click.option("--follow", "-f", is_flag=True, help="Wait for the job and exit with its result.")
@click.option("--idempotency-key", metavar="KEY", help="Reuse the job created earlier with the same KEY and request.")
@click.pass_obj
def train(
    connection: Connection,
    /,
    file: str | None,
    follow: bool,
    idempotency_key: str | None,
    prints: bool,
    dry_run: bool,
    data: Path | None,
    held_out: Path | None,
    **options: Any,
) -> None:
    """Submit a training request and print the new job's id.

    FILE is a JSON or YAML file with a request, or - for standard input. Options replace its fields; with --data and
    --model no file is needed.
    """
    if dry_run and (prints or follow or idempotency_key is not None):
        raise click.UsageError("--dry-run goes with none of --print, --follow and --idempotency-key")
    training = described.training_of(file, data, held_out, options)
    if prints:
        described.print_request(training, quiet=connection.quiet)
        return
    if dry_run:
        _show_plan(connection, training)
        return
    offer_service(connection)
    _find_dataset(connection, training)
    if training.files is not None:
        with datasets.showing_progress(connection) as report:
            provided = connection.run(operations.provide(training.files, training.name, report))
        training.request["processed_dataset_id"] = provided
    with explaining_interrupt(may_be_accepted("training")):
        accepted = connection.run(operations.train(training.request, None, "", key=idempotency_key))
    response = accepted.model_dump(mode="json")
    if not connection.as_json:
        click.echo(accepted.job_id)
        _print_warnings(connection, response)
    following.follow_accepted(connection, response, to_its_end=follow)


def _find_dataset(connection: Connection, training: DescribedTraining) -> None:
    """Write the id of the dataset that an option names into the request."""
    if training.dataset is not None and hub_dataset.parse(training.dataset) is None:
        training.request["processed_dataset_id"] = connection.find_dataset(training.dataset)


def _show_plan(connection: Connection, training: DescribedTraining) -> None:
    """Print what a training would take."""
    offer_service(connection)
    _find_dataset(connection, training)
    if training.files is not None and not connection.quiet:
        advice = "The service counts the rows to plan, so they are uploaded, and deleted again if it did not have them"
        echo_message(advice)
    with datasets.showing_progress(connection, keeps_parts=False) as report:
        planned = connection.run(operations.plan(training.request, training.files, training.name, report))
    _print_plan(connection, planned)


def _print_plan(connection: Connection, planned: Planned) -> None:
    answer = planned.model_dump(mode="json")
    if not connection.print_if_json(answer):
        for line in plans.format_plan(answer["plan"]):
            echo_line(line)
        _print_warnings(connection, answer)


@click.command()
@click.argument("file", required=False)
@train_options.with_options
@click.pass_obj
def plan(connection: Connection, /, file: str | None, data: Path | None, held_out: Path | None, **options: Any) -> None:
    """Show what a training request would take, without submitting it.

    FILE and options are those of `gemtune train`.
    """
    _show_plan(connection, described.training_of(file, data, held_out, options))


@click.command()
@click.option("--status", type=AnyCase(*Status), help="Filter by status.")
@click.option("--modality", type=AnyCase(*get_args(Modality)), help="Filter by modality: {text|vision|audio}.")
@click.option("--limit", "-n", type=click.IntRange(1), default=50, show_default=True, help="Maximum number of jobs.")
@click.pass_obj
def jobs(connection: Connection, status: str | None, modality: str | None, limit: int) -> None:
    """List jobs, newest first."""
    response = connection.run(references.list_jobs(limit=limit, status=status, modality=modality))
    if connection.print_if_json(response):
        return
    for job in response["jobs"]:
        columns = [local_time(job["created_at"]), f"{job['status']:10}", job["job_id"], job["job_name"]]
        waiting = job.get("waiting")  # an older service does not send it
        echo_columns(columns if waiting is None else [*columns, f"({job_lines.format_waiting(waiting)})"])
    if not response["jobs"] and not connection.quiet:
        echo_message("There are no such jobs." if status or modality else "No jobs yet. `gemtune train` starts one.")
    if response["next_page_token"] is not None and not connection.quiet:
        echo_message("There are more jobs. Increase --limit or use a filter to see them.")


@click.command()
@job_argument
@click.pass_obj
def status(connection: Connection, job: str) -> None:
    """Show the status of a job."""
    response = connection.call("GET", f"/jobs/{connection.find_job(job)}/status")
    if not connection.print_if_json(response):
        _print_job(response)


@click.command()
@job_argument
@click.pass_obj
def request(connection: Connection, job: str) -> None:
    """Print the request of a job, to submit it again.

    `gemtune request JOB | gemtune train - --set training_config.seed=7` trains again with another seed. Tokens and the
    address of a webhook are left out, and named on standard error. The request of an export of its own has only its
    export.
    """
    job_id = connection.find_job(job)
    response = connection.call("GET", f"/jobs/{job_id}/request")
    if connection.print_if_json(response):
        return
    click.echo(json.dumps(response["request"], indent=1))
    if response["path"] != "/train" and not connection.quiet:
        echo_message(f"this job only exports: its request is for POST {response['path']}, not for training")
    if response["left_out"] and not connection.quiet:
        echo_message(f"left out: {', '.join(response['left_out'])}; give them again to submit it")


@click.command()
@job_argument
@click.option("--follow", "-f", is_flag=True, help="Print new events until the job is over and exit with its result.")
@click.pass_obj
def events(connection: Connection, job: str, follow: bool) -> None:
    """List the events of a job."""
    job_id = connection.find_job(job)
    if follow:
        raise click.exceptions.Exit(following.follow_events(connection, job_id))
    response = connection.call("GET", f"/jobs/{job_id}/events")
    if not connection.print_if_json(response):
        for event in response["events"]:
            echo_line(job_lines.format_event(event))


@click.command()
@job_argument
@click.pass_obj
def pause(connection: Connection, job: str) -> None:
    """Pause a job at its next checkpoint; its machine is then free."""
    job_id = connection.find_job(job)
    response = connection.call("POST", f"/jobs/{job_id}/pause")
    if not connection.print_if_json(response):
        when = "" if response["status"] == "paused" else "; it pauses at its next checkpoint"
        echo_line(f"Job {job_id} is {response['status']}{when}")


@click.command()
@job_argument
@click.option("--max-cost-usd", metavar="USD", type=float, help="Most that the whole job may cost from now on.")
@click.option("--max-hours", metavar="HOURS", type=float, help="Most hours that the whole job may run from now on.")
@click.pass_obj
def resume(connection: Connection, job: str, max_cost_usd: float | None, max_hours: float | None) -> None:
    """Resume a paused job from its newest checkpoint.

    A job that has reached a cap needs a higher one.
    """
    job_id = connection.find_job(job)
    caps = {"max_cost_usd": max_cost_usd, "max_hours": max_hours}
    request = {name: value for name, value in caps.items() if value is not None}
    response = connection.call("POST", f"/jobs/{job_id}/resume", json=request)
    about_caps = [warning for warning in response.get("warnings", ()) if warning["code"] == CAP_BELOW_PLAN]
    _print_warnings(connection, {"warnings": about_caps})
    if not connection.print_if_json(response):
        echo_line(f"Job {job_id} is {response['status']}")


@click.command()
@click.pass_obj
def account(connection: Connection) -> None:
    """Show what your jobs have taken this month, and your budget."""
    answer = connection.call("GET", "/account")
    if not connection.print_if_json(answer):
        for line in plans.format_account(answer):
            click.echo(line)


@click.command()
@job_argument
@click.pass_obj
def cancel(connection: Connection, job: str) -> None:
    """Cancel a job; it cannot be resumed."""
    job_id = connection.find_job(job)
    response = connection.call("POST", f"/jobs/{job_id}/cancel")
    if not connection.print_if_json(response):
        echo_line(f"Job {job_id} is {response['status']}")


@click.command()
@job_argument
@confirm_option
@click.pass_obj
def delete(connection: Connection, job: str, yes: bool) -> None:
    """Delete a job that is over or paused, with all of its files."""
    job_id = connection.find_job(job)
    confirm(f"Delete job {job_id} with all of its files?", yes=yes)
    response = connection.call("DELETE", f"/jobs/{job_id}")
    if not connection.print_if_json(response):
        echo_line(f"Deleted job {job_id}")


def _print_warnings(connection: Connection, answer: dict[str, Any]) -> None:
    """Print the warnings of an answer to standard error, unless quiet."""
    for warning in () if connection.quiet else answer.get("warnings", ()):  # an older service sends none
        echo_message(f"warning: {warning['message']} ({as_commands(warning['hint'])})")


def _print_job(job: dict[str, Any]) -> None:
    """Print the status of a job as a table of names and values."""
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
            value = local_time(job[name]) if name == "created_at" else job[name]
            echo_line(f"{name + ':':22}{value}")
    if job.get("lineage"):  # an older service sends none
        echo_line(f"{'lineage:':22}{' <- '.join((job['job_id'], *job['lineage']))}")
    if waiting := job.get("waiting"):  # an older service does not send it
        echo_line(f"{'waiting:':22}{job_lines.format_waiting(waiting)}, since {local_time(waiting['since'])}")
    if pause := job.get("pause"):
        echo_line(f"{'pause:':22}since {local_time(pause['at'])}, {job_lines.format_pause(job)}")
    if job.get("spent"):  # an older service does not send it
        echo_line(f"{'spent:':22}{plans.format_spent(job)}")
    if job.get("plan"):
        echo_line(f"{'plan:':22}{plans.format_total(job['plan'])}")
    for name, step in job["steps"].items():
        cause = f", {step['cause']}" if step["cause"] else ""
        duration = "" if step["state"] == "running" and not step["seconds"] else f", {step['seconds']:.1f} s"
        echo_line(f"{name + ':':22}{step['state']}, attempt {step['attempt']}{duration}{cause}")
    if job.get("rows"):  # an older service sends none
        echo_line(f"{'rows:':22}{job_lines.format_rows(job['rows'])}")
    if job["progress"]:
        echo_line(f"{'progress:':22}{job_lines.format_progress(job['progress'])}")
    for title, values in job_lines.format_evaluations(job["metrics"]):
        echo_line(f"{title + ':':22}{values}")
    for warning in job.get("warnings", ()):  # an older service sends no warnings
        echo_line(f"{'warning:':22}{warning['message']} ({as_commands(warning['hint'])})")
    if job["error"]:
        echo_line(f"{'error:':22}{as_commands(job['error'])} ({job['error_detail']['code']})")
        if job["error_detail"]["hint"]:
            echo_line(f"{'':22}{as_commands(job['error_detail']['hint'])}")


COMMANDS = {c.name: c for c in (train, plan, jobs, status, request, events, pause, resume, account, cancel, delete)}
