"""Rules about the base model: where it is, whether it is a Gemma, and what it can do."""

from __future__ import annotations

from gemtune import families, llama_cpp
from gemtune.errors import Problem
from gemtune.request import base_model
from gemtune.request.facts import Facts
from gemtune.request.spec import TrainRequest

LOC = ("training_config", "base_model_id")


def base_model_id(request: TrainRequest, facts: Facts) -> list[Problem]:
    problem = base_model.problem_of_id(request.training_config.base_model_id)
    return [] if problem is None else [problem]


def supported(request: TrainRequest, facts: Facts) -> list[Problem]:
    """By the configuration where it is at hand, else by the name; `prepare` looks again at a model of the Hub."""
    model, files = base_model.parse(request.training_config.base_model_id), facts.base_model
    if model is None:
        return []
    if model.kind == "hub":
        problem = families.problem_of_name(model.place)
        return [] if problem is None else [problem]
    if files is None:
        return [
            Problem(LOC, "this service has no local folders", "bad_base_model", "use a Hub id or gs://bucket/folder")
        ]
    if files.config_problem is not None:
        return [Problem(LOC, files.config_problem, "bad_base_model", "save the model again")]
    if files.config is None:
        hint = "the folder holds config.json, *.safetensors and the tokenizer's files"
        return [Problem(LOC, "there is no config.json in this folder", "base_model_not_found", hint)]
    problem = families.problem_of_config(files.fields)
    return [] if problem is None else [problem]


def pictures(request: TrainRequest, facts: Facts) -> list[Problem]:
    """By the configuration where it is at hand, else by the name."""
    if request.modality == "text":
        return []
    if facts.base_model is not None and facts.base_model.config is not None:
        reason = base_model.why_no_pictures(facts.base_model.fields)
    else:
        family = families.of_name(request.training_config.base_model_id)
        reason = None if family is None else family.why_no_pictures_by_name(request.training_config.base_model_id)
    if reason is None:
        return []
    message = f"this base model cannot be trained on pictures: {reason}"
    return [Problem(("modality",), message, "model_without_vision", "use gemma-3-4b-it or larger, or modality text")]


def gguf_export(request: TrainRequest, facts: Facts) -> list[Problem]:
    """By the configuration where it is at hand, else by the name; `prepare` looks again."""
    if request.export_config.format != "gguf":
        return []
    model, files = base_model.parse(request.training_config.base_model_id), facts.base_model
    family = None
    if files is not None and "model_type" in files.fields:
        family = llama_cpp.problem_of_model_type(str(files.fields["model_type"]))
    elif model is not None and model.kind == "hub":
        family = llama_cpp.problem_of_repository(model.place)
    return [problem for problem in (facts.gguf_problem, family) if problem is not None]
