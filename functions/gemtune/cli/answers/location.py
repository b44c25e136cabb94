"""Location of the model to ask: files of this machine, or a download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gemtune.cli.connection import Connection
from gemtune.client.calls import Address
from gemtune.client.references import short_id
from gemtune.errors import StepError


@dataclass(frozen=True, slots=True)
class Choice:
    """The model of a job that is asked; None: as it was trained.

    format: of exported files. checkpoint: train_step. base_model: of a downloaded adapter, if it has another name here.
    """

    format: str | None
    checkpoint: int | None
    base_model: str | None


def located(connection: Connection, status: dict[str, Any], choice: Choice) -> tuple[list[str], dict[str, str]]:
    """Return arguments and environment of the process with the model.

    Downloads the files of a job of another machine. Raises StepError, click.UsageError.
    """
    _check_trained(status, choice.checkpoint)
    report = (status.get("rows") or {}).get("report")
    if not Address(connection.url).is_local or (report is not None and not Path(report).is_file()):
        return _downloaded(connection, status, choice), {}
    if choice.base_model is not None:
        raise click.UsageError("--base-model is for jobs of another machine: this one has the base model of the job")
    arguments = [status["job_id"]]
    if choice.format is not None:
        arguments += ["--format", choice.format]
    if choice.checkpoint is not None:
        arguments += ["--checkpoint", str(choice.checkpoint)]
    return arguments, _environment(report)


def _downloaded(connection: Connection, status: dict[str, Any], choice: Choice) -> list[str]:
    """Download a job's files; return the arguments for them.

    Raises StepError, click.UsageError.
    """
    from gemtune.cli.answers import downloads  # imports every answer of the API, in half a second

    if choice.checkpoint is not None:
        raise click.UsageError("--checkpoint is for jobs of this machine: checkpoints cannot be downloaded")
    job_id = status["job_id"]
    folder = downloads.fetch(connection, job_id)
    kind = "adapter" if (folder / "adapter_config.json").is_file() else "merged"
    kind = "gguf" if any(folder.glob("*.gguf")) else kind
    if choice.format is not None and choice.format != kind:
        message = f"the files of job {job_id} are {kind}, not {choice.format}"
        hint = f"`gemtune export {short_id(job_id)} --format {choice.format}` makes a job whose files are"
        raise StepError("not_exported", message, hint=hint)
    base_model = choice.base_model or status["base_model_id"]
    arguments = [job_id, "--folder", str(folder), "--base-model", base_model, "--format", kind]
    return [*arguments, "--modality", status.get("modality", "text")]


def _check_trained(status: dict[str, Any], checkpoint: int | None) -> None:
    """Check that there are weights to ask.

    Raises StepError `not_trained`.
    """
    train = status["steps"]["train"]
    if train["state"] == "done" or checkpoint is not None:
        return
    job_id, newest = status["job_id"], train["checkpoint"]
    message = f"the training of job {job_id} is not finished; the job is {status['status']}"
    hint = f"`gemtune watch {short_id(job_id)}` shows its progress"
    if newest:
        hint = f"`gemtune try {short_id(job_id)} --checkpoint {newest}` asks its newest checkpoint"
    raise StepError("not_trained", message, hint=hint)


def _environment(report: str | None) -> dict[str, str]:
    """Return the variables by which the process finds the service's files.

    The service may have been started in another folder than this command. report: path of the job's report.
    """
    variables = {"GEMTUNE_BACKEND": "embedded", "HF_HUB_OFFLINE": "1"}
    if report is None:
        return variables
    # <home>/<export bucket>/jobs/<job>/prepared/<attempt>/report.json
    bucket = Path(report).parents[4]
    return {**variables, "GEMTUNE_HOME": str(bucket.parent), "GCS_EXPORT_BUCKET_NAME": bucket.name}
