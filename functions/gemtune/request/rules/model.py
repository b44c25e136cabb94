"""Rules about the base model: where it is, whether it is a Gemma, and what it can do."""

from __future__ import annotations

import re

from gemtune import llama_cpp
from gemtune.errors import Problem
from gemtune.request import base_model
from gemtune.request.facts import Facts
from gemtune.request.spec import TrainRequest

LOC = ("training_config", "base_model_id")


def is_named(request: TrainRequest, facts: Facts) -> list[Problem]:
    problem = base_model.problem_of(request.training_config.base_model_id)
    return [] if problem is None else [problem]


def is_a_gemma(request: TrainRequest, facts: Facts) -> list[Problem]:
    """A model of the Hub is looked at by `prepare`, which fetches it."""
    model, files = base_model.read(request.training_config.base_model_id), facts.base_model
    if model is None or model.kind == "hub":
        return []
    if files is None:
        return [
            Problem(LOC, "this service has no local folders", "bad_base_model", "use a Hub id or gs://bucket/folder")
        ]
    if files.config_problem is not None:
        return [Problem(LOC, files.config_problem, "bad_base_model", "save the model again")]
    if files.config is None:
        hint = "the folder holds config.json, *.safetensors and the tokenizer's files"
        return [Problem(LOC, "there is no config.json in this folder", "base_model_not_found", hint)]
    kind = str(files.fields.get("model_type", "unknown"))
    if not kind.startswith("gemma"):
        return [Problem(LOC, f"it is a {kind[:40]} model, not a Gemma", "not_a_gemma", "use a Gemma model")]
    return []


def sees(request: TrainRequest, facts: Facts) -> list[Problem]:
    """By the configuration where it is at hand, else by the name: Gemma 1 and 2 and the smallest Gemma 3 (270M, 1B)
    have no vision tower; those of Gemma 3n and 4 need packages that this trainer does without (timm, torchvision)."""
    if request.modality == "text":
        return []
    if facts.base_model is not None and facts.base_model.config is not None:
        message = None if base_model.sees(facts.base_model.config) else "this base model cannot be shown pictures"
    else:
        message = _blind_by_name(request.training_config.base_model_id)
    if message is None:
        return []
    return [Problem(("modality",), message, "model_without_vision", "use gemma-3-4b-it or larger, or modality text")]


def _blind_by_name(base_model_id: str) -> str | None:
    name = base_model_id.rsplit("/", 1)[-1].lower()
    if re.match(r"^gemma-(2b|7b|1\.1|2-)|^gemma-3-(270m|1b)", name):
        return f"{name} cannot see pictures"
    if re.match(r"^gemma-(3n|4)", name):
        return f"{name} cannot be trained on pictures here"
    return None


def becomes_gguf(request: TrainRequest, facts: Facts) -> list[Problem]:
    """By the configuration where it is at hand, else by the name; `prepare` looks again."""
    if request.export_config.format != "gguf":
        return []
    model, files = base_model.read(request.training_config.base_model_id), facts.base_model
    family = None
    if files is not None and "model_type" in files.fields:
        family = llama_cpp.problem_of_kind(str(files.fields["model_type"]))
    elif model is not None and model.kind == "hub":
        family = llama_cpp.problem_of_name(model.place)
    return [problem for problem in (facts.no_gguf, family) if problem is not None]
