"""Options of `gemtune train`, and the request that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_args

import click

from gemtune.cli.connection.completing import AnyCase, complete_datasets, complete_models
from gemtune.cli.connection.groups import FieldOption
from gemtune.cli.request.paths import HELD_OUT, ROWS
from gemtune.client.request import FIELDS
from gemtune.client.request import request_of as request_with
from gemtune.jobs.secret_names import REFERENCE, USER_PREFIX
from gemtune.methods import Method, Modality
from gemtune.request.exports import EXPORTS, Quantization, quantizations
from gemtune.request.spec import ExportConfig, TrainRequest
from gemtune.request.training_config import DEFAULT_SEQ_LENGTH, TrainingConfig
from gemtune.untrusted import Unreadable, read_json

FORMATS, QUANTIZATIONS = tuple(EXPORTS), get_args(Quantization)
EXPORT_FORMS = tuple(
    form for name in EXPORTS for form in (name, *(f"{name}:{quantization}" for quantization in quantizations(name)))
)


def _default(option: str) -> str:
    """Return what help texts say of the default of a field of requests."""
    *training_config, name = FIELDS[option]
    model = TrainingConfig if training_config else TrainRequest
    return f"(default: {model.model_fields[name].get_default()})"


# Values of --set by the names of options elsewhere: fields of requests by their own names, and what holds rows out.
_SETTINGS: Mapping[str, str] = {
    **{name: f"{name}=VALUE" for name in TrainRequest.model_fields},
    **{name: f"export_config.{name}=VALUE" for name in ExportConfig.model_fields},
    **{name: f"training_config.{name}=VALUE" for name in TrainingConfig.model_fields},
    **dict.fromkeys(
        ("validation_split", "val_split", "eval_split", "test_split", "validation_size", "val_size", "test_size"),
        "training_config.eval_strategy=epoch",
    ),
    **dict.fromkeys(("hf_token", "token"), f"hf_token={REFERENCE}{USER_PREFIX}NAME"),
    **dict.fromkeys(("wandb", "wandb_project"), "wandb_config.project=NAME"),
}
# Options about the rows and the training.
TRAINING_OPTIONS = (
    click.option(
        "--model",
        metavar="ID",
        shell_complete=complete_models,
        help="Base model: a Hub id, gs://bucket/folder, or a local folder.",
    ),
    click.option(
        "--column",
        "columns",
        metavar="FIELD=COLUMN",
        multiple=True,
        help="Column of the rows that has a field, as prompt=question; may be repeated.",
    ),
    click.option("--ignore", "ignored", metavar="COLUMN", multiple=True, help="Column to ignore; may be repeated."),
    click.option(
        "--method",
        type=AnyCase(*get_args(Method)),
        help=f"Training method: {{LoRA|QLoRA|Full|RL}} {_default('method')}.",
    ),
    click.option("--epochs", type=int, help=f"Number of passes over all rows {_default('epochs')}."),
    click.option("--max-steps", type=int, help="Number of train_steps, instead of --epochs."),
    click.option("--learning-rate", type=float, help=f"Peak learning rate {_default('learning_rate')}."),
    click.option("--batch-size", type=int, help=f"Rows per forward pass {_default('batch_size')}."),
    click.option(
        "--max-seq-length", type=int, help=f"Maximum length of a row in tokens (default: {DEFAULT_SEQ_LENGTH})."
    ),
    click.option(
        "--lora-rank", type=int, help=f"Rank of the adapter, which method Full does not have {_default('lora_rank')}."
    ),
    click.option("--seed", type=int, help=f"Seed of everything random {_default('seed')}."),
    click.option(
        "--modality", type=AnyCase(*get_args(Modality)), help=f"Rows: {{text|vision|audio}} {_default('modality')}."
    ),
    click.option(
        "--set",
        "assignments",
        cls=FieldOption,
        fields=_SETTINGS,
        metavar="FIELD=VALUE",
        multiple=True,
        help="Any field; may be repeated.",
    ),
)
OPTIONS = (
    click.option("--data", type=ROWS, help="File of rows to upload and train on, or a folder."),
    click.option("--eval", "held_out", type=HELD_OUT, help="File of rows to upload and evaluate on."),
    click.option(
        "--dataset",
        metavar="DATASET",
        shell_complete=complete_datasets,
        help="Dataset that the service has already: its id, the beginning of one, or its name.",
    ),
    *TRAINING_OPTIONS[:-1],
    click.option(
        "--export",
        "export_",
        metavar="FORMAT[:QUANTIZATION]",
        type=AnyCase(*EXPORT_FORMS),
        help=f"Form of the result, as gguf:q4_k_m (default: {ExportConfig().format}; of method Full the whole model).",
    ),
    click.option("--repo", metavar="OWNER/NAME", help="Hub repository for the result as well."),
    click.option("--name", help="Name of the job."),
    click.option("--max-cost-usd", metavar="USD", type=float, help="Most that the job may cost; it is paused then."),
    click.option("--max-hours", metavar="HOURS", type=float, help="Most that its machines may run; it is paused then."),
    TRAINING_OPTIONS[-1],
)
Command = TypeVar("Command", bound=Callable[..., Any])


def with_options(command: Command) -> Command:
    """Add the options to a command."""
    return _with(command, OPTIONS)


def with_training_options(command: Command) -> Command:
    """Add the options about the rows and the training to a command."""
    return _with(command, TRAINING_OPTIONS)


def _with(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def request_of(options: Mapping[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Return a request with the fields of options, which replace its own.

    options: values by parameter name; None where an option was not given. Raises click.UsageError and BadUse.
    """
    fields = {}
    for assignment in options.get("assignments", ()):
        field, separator, text = assignment.partition("=")
        if not separator or not field:
            raise click.UsageError(f"--set {assignment}: write FIELD=VALUE, as in --set training_config.seed=7")
        fields[field] = _value(text)
    more = {"export": options.get("export_"), "columns": _columns_of(options, request), "fields": fields}
    return request_with({**options, **more}, request)


def _columns_of(options: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, str | None] | None:
    """Return the names of columns, those of the request included.

    None if no option names one. Raises click.UsageError.
    """
    columns: dict[str, str | None] = {}
    for text in options.get("columns", ()):
        field, separator, column = text.partition("=")
        if not separator or not field or not column:
            raise click.UsageError(f"--column {text}: write FIELD=COLUMN, as in --column prompt=question")
        if columns.setdefault(field, column) != column:
            raise click.UsageError(f"--column {text}: the field is in the column {columns[field]} already")
    for column in options.get("ignored", ()):
        if columns.setdefault(column, None) is not None:
            raise click.UsageError(f"--ignore {column}: it is the field in the column {columns[column]}")
    of_request = request.get("dataset_columns")
    return {**(of_request if isinstance(of_request, dict) else {}), **columns} if columns else None


def _value(text: str) -> Any:
    """Return the value of an assignment: JSON if it is that, else a string."""
    try:
        return read_json(text)
    except Unreadable:
        return text
