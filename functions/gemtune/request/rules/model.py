"""Rules about the base model: its name, its kind, and what it supports."""

from __future__ import annotations

from gemtune import families, llama_cpp
from gemtune.errors import Problem
from gemtune.families import timm
from gemtune.families.generation import Family
from gemtune.families.size import ModelSize
from gemtune.machines import model_size
from gemtune.request import base_model
from gemtune.request.facts import Facts
from gemtune.request.spec import TrainRequest

LOC = ("training_config", "base_model_id")


def base_model_id(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse a base_model_id that is missing or has no possible form."""
    if not request.training_config.base_model_id:
        if request.training_config.base_job_id is not None:  # a job that does not exist: another problem says so
            return []
        hint = "name a Gemma model, or a finished job to train on from as base_job_id"
        return [Problem(LOC, "this field is required", "missing_field", hint)]
    problem = base_model.problem_of_id(request.training_config.base_model_id)
    return [] if problem is None else [problem]


def supported(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse a base model that is missing, unreadable or not supported.

    A Hub model is checked by its name only; the prepare step checks it again by its config.json.
    """
    model, files = base_model.parse(request.training_config.base_model_id), facts.base_model
    if model is None:
        return []
    if model.kind == "hub":
        problem = families.problem_of_name(model.place)
        return [] if problem is None else [problem]
    if files is None:
        message = "this service cannot read local folders"
        return [Problem(LOC, message, "bad_base_model", "use a Hub id or gs://bucket/folder")]
    if files.config_problem is not None:
        return [Problem(LOC, files.config_problem, "bad_base_model", "save the model again")]
    if files.config is None:
        hint = "the folder has to contain config.json, *.safetensors and the tokenizer's files"
        return [Problem(LOC, files.absence, "base_model_not_found", hint)]
    problem = families.problem_of_config(files.fields)
    return [] if problem is None else [problem]


def family_of(request: TrainRequest, facts: Facts) -> Family | None:
    """Return the base model's family.

    Its config.json identifies it, or its name if that file is not available.
    """
    if facts.base_model is None or facts.base_model.config is None:
        return families.of_name(request.training_config.base_model_id)
    family_and_type = families.of_config(facts.base_model.fields)
    return None if family_and_type is None else family_and_type[0]


def size_of(request: TrainRequest, facts: Facts) -> ModelSize | None:
    """Return the size of the base model, by its config.json or its name."""
    if facts.base_model is not None and facts.base_model.config is not None:
        return model_size.of_folder(facts.base_model.fields, 0)
    return model_size.by_name(request.training_config.base_model_id)


def media(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse modality vision or audio for a model that cannot train on it.

    That depends on its config.json if that is available, else on its name.
    """
    if request.modality == "text":
        return []
    if facts.base_model is not None and facts.base_model.config is not None:
        reason = base_model.why_no_media(request.modality, facts.base_model.fields)
    else:
        family, name = family_of(request, facts), request.training_config.base_model_id
        reason = None if family is None else family.why_no_media_by_name(request.modality, name)
    if reason is None:
        return []
    code, message, hint = base_model.media_refusal(request.modality, reason)
    return [Problem(("modality",), message, code, hint)]


def packages(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse a model that transformers cannot build with what is installed."""
    files = facts.base_model
    config = None if files is None or files.config is None else files.config
    problem = timm.problem_of(family_of(request, facts), config, has_timm=facts.deployment.has_timm)
    return [] if problem is None else [problem]


def gguf_export(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse format gguf if the model or the deployment does not support it.

    The model is checked by its config.json if that is available, else by its name; the prepare step checks it again.
    """
    if request.export_config.format != "gguf":
        return []
    model, files = base_model.parse(request.training_config.base_model_id), facts.base_model
    model_problem = None
    if files is not None and "model_type" in files.fields:
        model_problem = llama_cpp.problem_of_config(files.fields)
    elif model is not None and model.kind == "hub":
        model_problem = llama_cpp.problem_of_repository(model.place)
    return [problem for problem in (facts.gguf_problem, model_problem) if problem is not None]
