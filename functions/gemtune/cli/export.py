"""The command `export`: exports a trained job in another form."""

from __future__ import annotations

from typing import Any

import click

from gemtune.cli.connection import Connection, interrupts
from gemtune.cli.connection import follow as following
from gemtune.cli.connection.completing import AnyCase, job_argument
from gemtune.cli.request.options import FORMATS, QUANTIZATIONS
from gemtune.jobs.secret_names import REFERENCE, USER_PREFIX


def _refuse_checkpoint(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Raise click.UsageError, which names the weights that an export has."""
    if value is not None:
        message = (
            "checkpoints are not exported, and are deleted when the training is finished. An export has the weights of "
            "the last train_step, or of the best evaluation if the job was submitted with --set "
            "training_config.load_best_model_at_end=true --set training_config.eval_strategy=epoch (or steps, every "
            "eval_steps). While a job trains, it has a checkpoint of its best evaluation and of every save_steps; "
            "`gemtune checkpoints JOB` lists them, and `gemtune try JOB --checkpoint N` asks one"
        )
        raise click.UsageError(message)


@click.command()
@job_argument
@click.option(
    "--format",
    "format_",
    required=True,
    metavar="FORMAT",
    type=AnyCase(*FORMATS),
    help="Export format: {adapter|merged|gguf}.",
)
@click.option(
    "--quantization",
    type=AnyCase(*QUANTIZATIONS),
    help="Quantization of the weights (default: that of the format).",
)
@click.option("--destination", help="Where to export to: {gcs|hfhub}; hfhub needs --repo.")
@click.option("--repo", metavar="OWNER/NAME", help="Hugging Face Hub repository to export to.")
@click.option(
    "--accept-loss", is_flag=True, help="Publish the export even if it loses more of the training than its format may."
)
@click.option("--token", metavar="NAME", help="Hub token to use, as stored with `gemtune secret NAME`.")
@click.option("--job-name", help="Name of the export job (default: the name of the trained job).")
@click.option("--checkpoint", hidden=True, expose_value=False, callback=_refuse_checkpoint)
@click.option("--follow", "-f", is_flag=True, help="Wait for the export and exit with its result.")
@click.option("--idempotency-key", metavar="KEY", help="Reuse the job created earlier with the same KEY and request.")
@click.pass_obj
def export(
    connection: Connection,
    /,
    job: str,
    follow: bool,
    idempotency_key: str | None,
    accept_loss: bool,
    **options: str | None,
) -> None:
    """Export a trained job in another form.

    The export is a new job, whose id is printed.
    """
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    request = _request(options)
    if accept_loss:
        request["export_config"]["accept_loss"] = True
    path = f"/jobs/{connection.find_job(job)}/exports"
    with interrupts.explaining_interrupt(interrupts.may_be_accepted("export")):
        response = connection.call("POST", path, json=request, headers=headers)
    if not connection.as_json:
        click.echo(response["job_id"])
    following.follow_accepted(connection, response, to_its_end=follow)


def _request(options: dict[str, str | None]) -> dict[str, Any]:
    """Return the export request for the options that were given."""
    names = {"format_": "format", "quantization": "quantization", "destination": "destination", "repo": "hf_repo_id"}
    config = {field: options[option] for option, field in names.items() if options[option] is not None}
    request: dict[str, Any] = {"export_config": config}
    if options["token"] is not None:
        request["hf_token"] = f"{REFERENCE}{USER_PREFIX}{options['token']}"
    if options["job_name"] is not None:
        request["job_name"] = options["job_name"]
    return request


COMMANDS = {"export": export}
