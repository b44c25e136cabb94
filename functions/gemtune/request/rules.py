"""Rules across the fields of a request. Each names the fields it reads and is skipped while one of them is faulty."""

from __future__ import annotations

import re

from gemtune.errors import Problem
from gemtune.request import base_model
from gemtune.request.rl_rules import RL_RULES
from gemtune.request.rule import Loc, Rule
from gemtune.request.spec import QUANTIZATIONS, TrainRequest


def _vision(request: TrainRequest) -> list[Problem]:
    """What goes together with pictures."""
    config = request.training_config
    if request.modality == "text":
        if not config.train_vision_tower:
            return []
        loc = ("training_config", "train_vision_tower")
        return [Problem(loc, "a text job shows nothing to a vision tower", "field_without_use", "use false")]
    if request.export_config.format != "gguf":
        return []
    message = "a gguf export holds the language model only, and would see nothing"
    return [Problem(("export_config", "format"), message, "format_without_vision", "use adapter or merged")]


def _packing(request: TrainRequest) -> list[Problem]:
    """What packs rows keeps them apart by attention of our own, which only text models of transformers are given."""
    config = request.training_config
    if not config.packing or (request.modality, config.provider) == ("text", "huggingface"):
        return []
    message = "packing works with text and provider huggingface only"
    return [Problem(("training_config", "packing"), message, "packing_not_possible", "use false")]


def _early_stopping(request: TrainRequest) -> list[Problem]:
    config, loc = request.training_config, ("training_config", "early_stopping_patience")
    if config.early_stopping_patience is None:
        if "early_stopping_threshold" not in config.model_fields_set:
            return []
        message = "early_stopping_threshold has no use without early_stopping_patience"
        return [Problem(("training_config", "early_stopping_threshold"), message, "field_without_use", "set both")]
    if config.eval_strategy != "no":
        return []
    message = "training can only stop early by evaluations"
    return [Problem(loc, message, "needs_evaluation", "set eval_strategy to steps or epoch")]


def _best_model(request: TrainRequest) -> list[Problem]:
    config = request.training_config
    if not config.load_best_model_at_end or config.eval_strategy != "no":
        return []
    message = "which weights are best is known from evaluations only"
    loc = ("training_config", "load_best_model_at_end")
    return [Problem(loc, message, "needs_evaluation", "set eval_strategy to steps or epoch")]


def _quantization(request: TrainRequest) -> list[Problem]:
    format, got = request.export_config.format, request.export_config.quantization
    allowed = QUANTIZATIONS[format]
    if got is None or got in allowed:
        return []
    message = f"{format} exports know no quantization {got!r}"
    return [
        Problem(
            ("export_config", "quantization"), message, "quantization_not_in_format", f"use one of {', '.join(allowed)}"
        )
    ]


def _destination(request: TrainRequest) -> list[Problem]:
    """A repository that is named along with `gcs` is let through: the interface's own example does it."""
    export, loc = request.export_config, ("export_config", "hf_repo_id")
    if export.destination == "gcs":
        return []
    if export.hf_repo_id is None:
        return [Problem(loc, "hfhub needs a repository", "missing_field", "name one as owner/name")]
    # The Hub's own rule: https://huggingface.co/docs/huggingface_hub/package_reference/utilities#validation
    if re.search(r"--|\.\.|\.git$|[-.](/|$)", export.hf_repo_id):
        hint = "no -- and no .. in it, and neither owner nor name ends with - or . or .git"
        return [Problem(loc, "the Hub takes no such name", "bad_form", hint)]
    return []


def _wandb(request: TrainRequest) -> list[Problem]:
    """W&B's own rule for names; a project may stand behind its entity: `team/project`."""
    project = None if request.wandb_config is None else request.wandb_config.project
    if project is None or re.fullmatch(r"([\w.-]+/)?[^/\\#?%:\x00-\x1f\x7f]+", project):
        return []
    hint = "use letters, digits, '-' and '_'; a team's project is team/project"
    return [Problem(("wandb_config", "project"), "W&B allows no such name for a project", "bad_form", hint)]


def _eval_steps(request: TrainRequest) -> list[Problem]:
    config = request.training_config
    if config.eval_strategy == "steps" or "eval_steps" not in config.model_fields_set:
        return []
    if config.eval_steps == type(config).model_fields["eval_steps"].default:
        return []  # the documented example sends the default along with any strategy
    message = f"eval_steps has no use with eval_strategy {config.eval_strategy!r}"
    return [Problem(("training_config", "eval_steps"), message, "field_without_use", "set eval_strategy to steps")]


def _evaluation_metrics(request: TrainRequest) -> list[Problem]:
    metrics = request.training_config.evaluation_metrics
    if len(set(metrics)) == len(metrics):
        return []
    return [
        Problem(("training_config", "evaluation_metrics"), "a metric stands twice", "repeated_value", "name each once")
    ]


def _sees(request: TrainRequest) -> list[Problem]:
    """Gemma 1 and 2 and the smallest Gemma 3 (270M, 1B) have no vision tower; those of Gemma 3n and 4 need packages
    that this trainer does without (timm, torchvision)."""
    name = request.training_config.base_model_id.rsplit("/", 1)[-1].lower()
    if request.modality == "text":
        return []
    if re.match(r"^gemma-(2b|7b|1\.1|2-)|^gemma-3-(270m|1b)", name):
        message = f"{name} cannot see pictures"
    elif re.match(r"^gemma-(3n|4)", name):
        message = f"{name} cannot be trained on pictures here"
    else:
        return []
    return [Problem(("modality",), message, "model_without_vision", "use gemma-3-4b-it or larger, or text")]


def _base_model(request: TrainRequest) -> list[Problem]:
    problem = base_model.problem_of(request.training_config.base_model_id)
    return [] if problem is None else [problem]


_TRAINING: Loc = ("training_config",)
_EXPORT: Loc = ("export_config",)
RULES: tuple[Rule, ...] = (
    Rule(((*_TRAINING, "base_model_id"),), _base_model),
    Rule((("modality",), (*_EXPORT, "format"), (*_TRAINING, "train_vision_tower")), _vision),
    Rule((("modality",), (*_TRAINING, "base_model_id")), _sees),
    Rule((("modality",), (*_TRAINING, "packing"), (*_TRAINING, "provider")), _packing),
    Rule(
        tuple((*_TRAINING, name) for name in ("early_stopping_patience", "early_stopping_threshold", "eval_strategy")),
        _early_stopping,
    ),
    Rule(((*_TRAINING, "load_best_model_at_end"), (*_TRAINING, "eval_strategy")), _best_model),
    Rule(((*_TRAINING, "eval_steps"), (*_TRAINING, "eval_strategy")), _eval_steps),
    Rule(((*_TRAINING, "evaluation_metrics"),), _evaluation_metrics),
    Rule(((*_EXPORT, "format"), (*_EXPORT, "quantization")), _quantization),
    Rule(((*_EXPORT, "destination"), (*_EXPORT, "hf_repo_id")), _destination),
    Rule((("wandb_config",),), _wandb),
    *RL_RULES,
)
