"""Requests to train, from options by name."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypedDict

from gemtune.client.errors import BadUse

# Fields of a request by the names of options.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "dataset": ("processed_dataset_id",),
    "name": ("job_name",),
    "columns": ("dataset_columns",),
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
    "max_cost_usd": ("max_cost_usd",),
    "max_hours": ("max_hours",),
}


class TrainOptions(TypedDict, total=False):
    """Options of a training.

    data: file of rows, or folder, to upload and train on. eval: file of rows to evaluate on. dataset: id of a dataset
    that the service has. columns: columns of the rows by the fields that they have, as `{"prompt": "question"}`, and
    None for each one to ignore. export: form of the result, as `gguf:q4_k_m`. repo: Hub repository for the result.
    fields: any other field, by its place, as `{"training_config.packing": True}`. The others are fields of a request.
    """

    data: str | Path
    eval: str | Path
    dataset: str
    model: str
    method: str
    epochs: int
    max_steps: int
    learning_rate: float
    batch_size: int
    max_seq_length: int
    lora_rank: int
    seed: int
    columns: Mapping[str, str | None]
    modality: str
    export: str
    repo: str
    name: str
    max_cost_usd: float
    max_hours: float
    fields: Mapping[str, Any]


def request_of(options: Mapping[str, Any], request: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a request with the fields of options, which replace its own.

    Options that are None count as absent. A local folder of a base model becomes absolute. Raises BadUse.
    """
    body = {} if request is None else deepcopy(dict(request))
    for name, place in FIELDS.items():
        if options.get(name) is not None:
            _set(body, place, options[name])
    if options.get("repo") is not None:
        _set(body, ("export_config", "destination"), "hfhub")
    if options.get("export") is not None:
        export_format, _, quantization = options["export"].partition(":")
        _set(body, ("export_config", "format"), export_format)
        if quantization:
            _set(body, ("export_config", "quantization"), quantization)
    for field, value in (options.get("fields") or {}).items():
        _set(body, tuple(field.split(".")), value)
    make_paths_absolute(body)
    return body


def make_paths_absolute(request: dict[str, Any]) -> None:
    """Make the path of a local base model absolute.

    It may begin with `~` or `.`, which the service, with another home and another current folder, would not find.
    """
    training_config = request.get("training_config")
    if not isinstance(training_config, dict):
        return
    base = training_config.get("base_model_id")
    if isinstance(base, str) and base.startswith(("~", "./", "../")):
        training_config["base_model_id"] = str(Path(base).expanduser().resolve())


def _set(request: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    """Set a field of a request, whose objects are created as needed."""
    for name in place[:-1]:
        inner = request.setdefault(name, {})
        if not isinstance(inner, dict):
            raise BadUse(f"{name} of the request is no object, so it has no field {place[-1]}")
        request = inner
    request[place[-1]] = value
