"""Rules across fields of a request: one table of pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from pydantic import BaseModel

from gemtune.errors import Problem
from gemtune.request.contract import Loc
from gemtune.request.facts import Facts
from gemtune.request.parsing import Reading
from gemtune.request.rules import accounts, adapter, caps, export, model, reinforcement, training
from gemtune.request.spec import TrainRequest


@dataclass(frozen=True, slots=True)
class Rule:
    """Cross-field rule for requests.

    fields: the fields it is about. It is not checked if one of them is invalid.
    check: pure function of the request and the facts, which returns the problems.
    """

    fields: tuple[Loc, ...]
    check: Callable[[TrainRequest, Facts], list[Problem]]


def _training(*names: str) -> tuple[Loc, ...]:
    """Return the locations of fields of training_config."""
    return tuple(("training_config", name) for name in names)


_DATASET, _MODALITY, _FORMAT = ("processed_dataset_id",), ("modality",), ("export_config", "format")
(_BASE_MODEL,), (_RL_CONFIG,) = _training("base_model_id"), _training("rl_config")
RULES: tuple[Rule, ...] = (
    Rule((_DATASET,), training.dataset_exists),
    Rule((("dataset_columns",),), training.dataset_columns),
    Rule((_BASE_MODEL, *_training("base_job_id")), model.base_model_id),
    Rule((_BASE_MODEL,), model.supported),
    Rule((_BASE_MODEL,), model.packages),
    Rule((_MODALITY, _BASE_MODEL), model.media),
    Rule((_MODALITY, *_training("method", "provider")), training.audio),
    Rule((_MODALITY, _BASE_MODEL, *_training("train_vision_tower")), training.vision_tower),
    Rule((_BASE_MODEL, *_training("lora_dropout", "method")), training.dropout_of_experts),
    Rule((_MODALITY, *_training("packing", "provider")), training.packing),
    Rule(_training("early_stopping_patience", "early_stopping_threshold", "eval_strategy"), training.early_stopping),
    Rule(_training("load_best_model_at_end", "eval_strategy"), training.best_weights),
    Rule(_training("eval_steps", "eval_strategy"), training.eval_steps),
    Rule(_training("evaluation_metrics"), training.evaluation_metrics),
    Rule(_training("warmup_ratio", "max_steps"), training.warmup),
    Rule(_training("learning_rate", "lr_scheduler_type"), training.scheduler),
    Rule((_MODALITY, *_training("provider", "method")), training.provider),
    Rule(_training("provider", "base_job_id"), training.base_job),
    Rule(_training("method", "provider", *adapter.OPTIONS, *adapter.OF_EMBEDDINGS), adapter.options),
    Rule((_BASE_MODEL, *_training("new_tokens")), adapter.new_tokens),
    Rule((_BASE_MODEL, *_training("method", "target_modules", "use_dora")), adapter.target_modules),
    Rule((("training_config",), _MODALITY), training.machine),
    Rule((_DATASET, *_training("method", "rl_config")), reinforcement.rl_config),
    Rule((("dataset_format",), *_training("method", "rl_config")), reinforcement.dataset_format),
    Rule(_training("method", "packing"), reinforcement.packing),
    Rule(
        _training("method", "rl_config", "lora_dropout", "evaluation_metrics", "train_on"),
        reinforcement.fields_without_use,
    ),
    Rule(_training("rl_config", "too_long"), reinforcement.cut_prompts),
    Rule((_RL_CONFIG,), reinforcement.dpo),
    Rule(_training("batch_size", "rl_config"), reinforcement.kto),
    Rule((_RL_CONFIG,), reinforcement.rewards),
    Rule(_training("batch_size", "gradient_accumulation_steps", "rl_config"), reinforcement.groups),
    Rule(_training("max_seq_length", "rl_config"), reinforcement.completion_length),
    Rule((_FORMAT, ("export_config", "quantization")), export.quantization),
    Rule((_BASE_MODEL, _FORMAT), model.gguf_export),
    Rule((("training_config",), ("export_config",)), export.machine),
    Rule((("export_config", "destination"), ("export_config", "hf_repo_id")), export.destination),
    Rule((_FORMAT, ("export_config", "destination")), export.adapter_of_trained_model),
    Rule((("hf_token",), ("export_config", "destination")), export.hub_token),
    Rule((("hf_token",), ("wandb_config",)), accounts.secrets),
    Rule((("wandb_config",),), accounts.wandb_project),
    Rule((("wandb_config",),), accounts.wandb_key),
    Rule((("notify",),), accounts.webhook),
    Rule((("max_cost_usd",), ("max_hours",)), caps.maximum),
    Rule((("max_cost_usd",), ("training_config",), ("export_config",)), caps.price),
)


def check(
    reading: Reading[TrainRequest], facts: Facts, *, about: type[BaseModel] = TrainRequest
) -> Reading[TrainRequest]:
    """Check the rules, and return the reading with all problems.

    If the request leaves rl_config to the rows of its dataset, the returned one has it. A rule about an invalid field
    is not checked.
    about: the model of what the user sent. Rules without any of its fields are not checked.
    """
    if reading.request is None:
        return reading
    request = reinforcement.infer_rl_algorithm(reading.request, facts)
    invalid = [problem.loc for problem in reading.problems]
    problems = [
        problem
        for rule in _rules_about(about)
        if not invalid or not any(loc[: len(field)] == field for field in rule.fields for loc in invalid)
        for problem in rule.check(request, facts)
    ]
    return Reading(request, (*reading.problems, *problems))


@cache
def _rules_about(model: type[BaseModel]) -> tuple[Rule, ...]:
    """Return the rules with a field of a model."""
    return tuple(rule for rule in RULES if any(field[0] in model.model_fields for field in rule.fields))
