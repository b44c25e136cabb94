"""Rules about the dataset and the training."""

from __future__ import annotations

import difflib

from gemtune.datasets.formats import table
from gemtune.datasets.rl import formats as rl_formats
from gemtune.errors import NeedsLargerMachine, Problem
from gemtune.request import placement, schedule
from gemtune.request.facts import Facts
from gemtune.request.rules.model import family_of, size_of
from gemtune.request.spec import TrainRequest


def dataset_exists(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse a dataset that does not exist or cannot be looked at."""
    if facts.dataset is None or facts.dataset.exists:
        return []
    if facts.dataset.problem is not None:
        return [facts.dataset.problem]
    hint = f"put train.jsonl, or another kind of file with rows, into {facts.dataset.place}"
    message = f"there is no dataset {request.processed_dataset_id!r}"
    return [Problem(("processed_dataset_id",), message, "dataset_not_found", hint)]


def dataset_columns(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse a name that no format has, and two fields in one column."""
    problems = []
    columns, fields = request.dataset_columns, table.FIELDS | rl_formats.FIELDS
    for name, column in columns.items():
        loc = ("dataset_columns", name)
        if column is None:
            continue
        if name not in fields:
            near = difflib.get_close_matches(name, sorted(fields), n=1)
            names = near or sorted(fields)
            problems.append(
                Problem(loc, f"no format has a field {name!r}", "unknown_field", f"use {' or '.join(names)}")
            )
        elif column in list(columns.values())[: list(columns).index(name)]:
            message = f"two fields are to be read from the column {column!r}"
            problems.append(Problem(loc, message, "repeated_value", "give each field a column of its own"))
    return problems


def vision_tower(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse train_vision_tower where no vision tower can be trained."""
    if not request.training_config.train_vision_tower:
        return []
    loc = ("training_config", "train_vision_tower")
    if request.modality != "vision":
        message = f"a job of modality {request.modality} does not use the vision tower"
        return [Problem(loc, message, "field_without_use", "use false")]
    family = family_of(request, facts)
    reason = None if family is None else family.why_tower_is_frozen
    return [] if reason is None else [Problem(loc, reason, "vision_tower_frozen", "use false")]


def audio(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse modality audio with a method or provider that cannot train on it."""
    if request.modality != "audio":
        return []
    problems = []
    config, loc = request.training_config, ("modality",)
    if config.method == "RL":
        message = "RL cannot train on audio"
        problems.append(Problem(loc, message, "audio_not_possible", "use method LoRA, QLoRA or Full"))
    if config.provider == "unsloth":
        message = "provider unsloth cannot train on audio"
        problems.append(Problem(loc, message, "audio_not_possible", "use provider huggingface"))
    return problems


def dropout_of_experts(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse lora_dropout with a mixture of experts.

    PEFT adds an expert's adapter to its weights, so no input of the adapter can be dropped. The default is accepted,
    and is then 0.
    """
    config = request.training_config
    if config.method not in ("LoRA", "QLoRA") or config.lora_dropout == 0:
        return []
    size = size_of(request, facts)
    if size is None or size.experts is None or not config.differs_from_default("lora_dropout"):
        return []
    message = "an adapter on experts knows no dropout, because PEFT adds it to their weights"
    return [Problem(("training_config", "lora_dropout"), message, "field_without_use", "use 0, or leave it out")]


def packing(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse packing where rows of a sequence could attend to each other.

    gemtune's own attention keeps them apart, and only text models of provider huggingface use it.
    """
    config = request.training_config
    if not config.packing or (request.modality, config.provider) == ("text", "huggingface"):
        return []
    message = "packing needs modality text and provider huggingface"
    return [Problem(("training_config", "packing"), message, "packing_not_possible", "use false")]


def early_stopping(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse early stopping without evaluations, and its threshold without it."""
    config, loc = request.training_config, ("training_config", "early_stopping_patience")
    if config.early_stopping_patience is None:
        if not config.differs_from_default("early_stopping_threshold"):
            return []
        message = "early_stopping_threshold has no effect without early_stopping_patience"
        return [Problem(("training_config", "early_stopping_threshold"), message, "field_without_use", "set both")]
    if config.eval_strategy != "no":
        return []
    message = "early stopping needs evaluations"
    return [Problem(loc, message, "needs_evaluation", "set eval_strategy to steps or epoch")]


def best_weights(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse to keep the best weights if nothing is evaluated."""
    config = request.training_config
    if not config.load_best_model_at_end or config.eval_strategy != "no":
        return []
    message = "evaluations are needed to know the best weights"
    loc = ("training_config", "load_best_model_at_end")
    return [Problem(loc, message, "needs_evaluation", "set eval_strategy to steps or epoch")]


def eval_steps(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse eval_steps with other strategies than steps."""
    config = request.training_config
    if config.eval_strategy == "steps" or not config.differs_from_default("eval_steps"):
        return []
    message = f"eval_steps has no effect with eval_strategy {config.eval_strategy!r}"
    return [Problem(("training_config", "eval_steps"), message, "field_without_use", "set eval_strategy to steps")]


def evaluation_metrics(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse a list that names a metric twice."""
    metrics = request.training_config.evaluation_metrics
    if len(set(metrics)) == len(metrics):
        return []
    loc = ("training_config", "evaluation_metrics")
    return [Problem(loc, "a metric is named twice", "repeated_value", "name each metric once")]


def warmup(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse a warmup as long as the whole run.

    Without max_steps the number of train_steps depends on the rows, so the prepare step checks this again.
    """
    config = request.training_config
    if config.max_steps is None and config.warmup_ratio < 1:
        return []
    problem = schedule.warmup_problem(config, config.max_steps or 1)
    return [] if problem is None else [problem]


def scheduler(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse a learning rate that is too low for its schedule."""
    problem = schedule.rate_problem(request.training_config)
    return [] if problem is None else [problem]


def provider(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse provider unsloth if it is not installed, or lacks a GPU.

    Without one it trains every family on text, by LoRA, Full and RL. Audio has a rule of its own.
    """
    config, loc = request.training_config, ("training_config", "provider")
    if config.provider != "unsloth":
        return []
    if not facts.deployment.has_unsloth:
        hint = "use huggingface, or ask the operator of the service to install unsloth with `make unsloth`"
        return [Problem(loc, "this service does not have unsloth", "unsloth_missing", hint)]
    if facts.deployment.may_have_gpu:
        return []
    needing = {"QLoRA": config.method == "QLoRA", "on pictures": request.modality == "vision"}
    what = " and ".join(name for name, is_requested in needing.items() if is_requested)
    if not what:
        return []
    message = f"unsloth trains {what} on a GPU only, and there is none here"
    hint = "use huggingface" if needing["on pictures"] else "use huggingface, or method LoRA"
    return [Problem(loc, message, "unsloth_needs_gpu", hint)]


def base_job(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse to train on from a job with provider unsloth.

    Its functions add a new adapter to a model, and were not tested with one that exists.
    """
    config = request.training_config
    if config.base_job_id is None or config.provider == "huggingface":
        return []
    message = "provider unsloth cannot train on from a job"
    return [Problem(("training_config", "base_job_id"), message, "not_with_unsloth", "use provider huggingface")]


def machine(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse an unknown machine, or a request that needs too much memory."""
    loc, requested = ("training_config", "machine"), request.training_config.machine
    machines = facts.deployment.machines
    if requested is not None and requested not in machines:
        hint = f"use one of {', '.join(machines)}, or leave it out"
        return [Problem(loc, f"this deployment has no machine {requested!r}", "machine_not_here", hint)]
    try:
        placement.machine(request, facts)
    except NeedsLargerMachine as error:
        return [Problem(loc, error.message, error.code, error.hint)]
    return []
