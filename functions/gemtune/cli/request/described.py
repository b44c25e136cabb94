"""Training that a command line describes, by a file or by options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gemtune.cli.connection.text import echo_message
from gemtune.cli.request import file as request_file
from gemtune.cli.request import options as options_of_train
from gemtune.client import uploads
from gemtune.client.references import WHOLE_DATASET_ID
from gemtune.datasets.files import hub_dataset


@dataclass(frozen=True, slots=True)
class DescribedTraining:
    """Training that a command line describes.

    files, name: of a dataset to upload; None and empty without one. dataset: id, beginning of one, or name of the
    dataset that an option names.
    """

    request: dict[str, Any]
    files: uploads.LocalDataset | None
    name: str
    dataset: str | None


def training_of(
    file: str | None, data: Path | None, held_out: Path | None, options: Mapping[str, Any]
) -> DescribedTraining:
    """Return the training that a file and options describe.

    Raises click.UsageError, BadUse and NoSuchColumn.
    """
    request = options_of_train.request_of(options, {} if file is None else request_file.read(file))
    if data is None and file is None and "processed_dataset_id" not in request:
        raise click.UsageError("say what to train on: --data FILE, --dataset ID, or a FILE with a request")
    if data is not None and options["dataset"] is not None:
        raise click.UsageError("--data and --dataset both say what to train on: leave out one of them")
    if held_out is not None and data is None:
        raise click.UsageError("--eval goes with --data")
    files = None if data is None else uploads.files_of(data, held_out)
    config = request.get("training_config") or {}
    if file is None and isinstance(config, dict) and not config.get("base_model_id"):  # the service refuses others
        raise click.UsageError("say which base model to train: --model MODEL (`gemtune models` lists some)")
    if files is not None:
        uploads.check_columns(files, request.get("dataset_columns"))
    return DescribedTraining(request, files, "" if data is None else data.resolve().name, options["dataset"])


def print_request(training: DescribedTraining, *, quiet: bool) -> None:
    """Print a request as it can be sent, and what it needs for that.

    The id of a dataset is known from its files, before they are uploaded.
    """
    request, need = training.request, None
    if training.files is not None:
        request = request | {"processed_dataset_id": training.files.dataset_id}
        need = "its dataset is that of the files of --data, which `gemtune data upload` uploads"
    elif training.dataset is not None and not _is_id(training.dataset):
        need = f"{training.dataset} is sent as it is: only --dataset takes a name or the beginning of an id"
    click.echo(json.dumps(request, indent=1))
    if need is not None and not quiet:
        echo_message(f"To send this request: {need}")


def _is_id(dataset: str) -> bool:
    return WHOLE_DATASET_ID.fullmatch(dataset) is not None or hub_dataset.parse(dataset) is not None
