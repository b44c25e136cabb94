"""Exports once more what a job has trained."""

from __future__ import annotations

from typing import Any

import click

from gemtune.cli import follow as following
from gemtune.cli.connection import Connection
from gemtune.jobs.secret_names import REFERENCE, USER_PREFIX


@click.command()
@click.argument("job_id")
@click.option("--format", "format_", required=True, metavar="FORMAT", help="adapter, merged or gguf.")
@click.option("--quantization", help="Left out: the format's default.")
@click.option("--destination", help="gcs, or hfhub: the repository that --repo names.")
@click.option("--repo", metavar="OWNER/NAME", help="A repository of the Hub.")
@click.option("--token", metavar="NAME", help="The Hub token that `gemtune secret NAME` keeps.")
@click.option("--job-name", help="Left out: the job's own.")
@click.option("--follow", is_flag=True, help="Stay until the export is over; its end is the exit code.")
@click.option("--idempotency-key", metavar="KEY", help="The same key and request again are the same job.")
@click.pass_obj
def export(
    connection: Connection, /, job_id: str, follow: bool, idempotency_key: str | None, **options: str | None
) -> None:
    """Export what a job has trained in another form; this makes a job of its own."""
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    answer = connection.call("POST", f"/jobs/{job_id}/exports", json=_request(options), headers=headers)
    if not connection.show(answer):
        click.echo(answer["job_id"])
    if follow:
        raise click.exceptions.Exit(following.follow(connection, answer["job_id"]))


def _request(options: dict[str, str | None]) -> dict[str, Any]:
    names = {
        "format_": "format", "quantization": "quantization", "destination": "destination", "repo": "hf_repo_id",
    }  # fmt: skip
    config = {field: options[option] for option, field in names.items() if options[option] is not None}
    request: dict[str, Any] = {"export_config": config}
    if options["token"] is not None:
        request["hf_token"] = f"{REFERENCE}{USER_PREFIX}{options['token']}"
    if options["job_name"] is not None:
        request["job_name"] = options["job_name"]
    return request


COMMANDS = {"export": export}
