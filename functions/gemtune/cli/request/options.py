"""Options of `gemtune train`, and the request that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from gemtune.cli.connection.completing import complete_datasets, complete_models, words
from gemtune.methods import Method, Modality
from gemtune.untrusted import Unreadable, read_json

# Fields of a request by the names of their options' parameters.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "dataset": ("processed_dataset_id",),
    "name": ("job_name",),
    "modality": ("modality",),
    "model": ("training_config", "base_model_id"),
    "method": ("training_config", "method"),
    "epochs": ("training_config", "epochs"),
    "max_steps": ("training_config", "max_steps"),
    "learning_rate": ("training_config", "learning_rate"),
    "batch_size": ("training_config", "batch_size"),
    "max_seq_length": ("training_config", "max_seq_length"),
    "lora_rank": ("training_config", "lora_rank"),
    "seed": ("training_config", "seed"),
    "repo": ("export_config", "hf_repo_id"),
}
EXISTING = click.Path(exists=True, path_type=Path)
# Options about the rows and the training.
TRAINING_OPTIONS = (
    click.option(
        "--model",
        metavar="ID",
        shell_complete=complete_models,
        help="Base model: a Hub id, gs://bucket/folder, or a local folder.",
    ),
    click.option("--method", shell_complete=words(*get_args(Method)), help="Training method: {LoRA|QLoRA|Full|RL}."),
    click.option("--epochs", type=int, help="Number of passes over all rows."),
    click.option("--max-steps", type=int, help="Number of train_steps, instead of --epochs."),
    click.option("--learning-rate", type=float, help="Peak learning rate."),
    click.option("--batch-size", type=int, help="Rows per forward pass."),
    click.option("--max-seq-length", type=int, help="Maximum length of a row in tokens."),
    click.option("--lora-rank", type=int, help="Rank of the adapter."),
    click.option("--seed", type=int, help="Seed of everything random."),
    click.option("--modality", shell_complete=words(*get_args(Modality)), help="Content of the rows: {text|vision}."),
    click.option("--set", "assignments", metavar="FIELD=VALUE", multiple=True, help="Any field; may be repeated."),
)
OPTIONS = (
    click.option("--data", type=EXISTING, help="File of rows to upload and train on, or a folder."),
    click.option("--eval", "held_out", type=EXISTING, help="File of rows to upload and evaluate on."),
    click.option(
        "--dataset", metavar="ID", shell_complete=complete_datasets, help="Dataset that the service has already."
    ),
    *TRAINING_OPTIONS[:-1],
    click.option(
        "--export",
        "export_",
        metavar="FORMAT[:QUANTIZATION]",
        shell_complete=words("adapter", "merged", "gguf:q4_k_m", "gguf:q8_0", "gguf:f16"),
        help="Form of the result, as gguf:q4_k_m.",
    ),
    click.option("--repo", metavar="OWNER/NAME", help="Hub repository for the result as well."),
    click.option("--name", help="Name of the job."),
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

    options: values by parameter name; None where an option was not given. Raises click.UsageError.
    """
    for name, place in FIELDS.items():
        if options.get(name) is not None:
            _set(request, place, options[name])
    if options.get("repo") is not None:
        _set(request, ("export_config", "destination"), "hfhub")
    if options.get("export_") is not None:
        export_format, _, quantization = options["export_"].partition(":")
        _set(request, ("export_config", "format"), export_format)
        if quantization:
            _set(request, ("export_config", "quantization"), quantization)
    for assignment in options.get("assignments", ()):
        field, separator, text = assignment.partition("=")
        if not separator or not field:
            raise click.UsageError(f"--set {assignment}: write FIELD=VALUE, as in --set training_config.seed=7")
        _set(request, tuple(field.split(".")), _value(text))
    return request


def _set(request: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    """Set a field of a request, whose objects are created as needed."""
    for name in place[:-1]:
        inner = request.setdefault(name, {})
        if not isinstance(inner, dict):
            raise click.UsageError(f"{name} of the request is no object, so it has no field {place[-1]}")
        request = inner
    request[place[-1]] = value


def _value(text: str) -> Any:
    """Return the value of an assignment: JSON if it is that, else a string."""
    try:
        return read_json(text)
    except Unreadable:
        return text
