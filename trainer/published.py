"""The part of a request that may be published.

It goes to a run at W&B, to a model card and to a repository on the Hub. It is an allow-list: a field in none of these
sets is not published. Webhook URLs contain tokens in their paths, and local paths identify a machine and its user.
"""

from __future__ import annotations

from typing import Any

from gemtune.redaction import redact
from gemtune.request.base_model import public_name
from gemtune.request.spec import Spec

_OF_ROWS = {"processed_dataset_id", "dataset_format", "dataset_columns", "modality"}
OF_SPEC = frozenset({"job_name", "training_config", "export_config"} | _OF_ROWS)
OF_TRAINING = frozenset({
    "method", "base_model_id", "base_job_id", "learning_rate", "batch_size", "epochs", "gradient_accumulation_steps",
    "provider", "eval_strategy", "eval_steps", "evaluation_metrics", "batch_eval_metrics", "lora_rank", "lora_alpha",
    "target_modules", "use_rslora", "use_dora", "new_tokens", "train_embeddings", "lora_dropout", "max_steps",
    "max_seq_length", "too_long", "train_on", "same_role", "packing", "lr_scheduler_type", "warmup_ratio",
    "weight_decay", "save_steps", "save_minutes", "logging_steps", "early_stopping_patience",
    "early_stopping_threshold", "load_best_model_at_end", "train_vision_tower", "rl_config", "seed", "machine",
})  # fmt: skip
OF_EXPORT = frozenset({"format", "quantization", "destination", "hf_repo_id", "accept_loss"})
# Addresses of webhooks and the W&B project are private; priority, pauses and caps say nothing about the result.
WITHHELD = frozenset({"notify", "wandb_config", "priority", "pause_after", "max_cost_usd", "max_hours"})


def public_fields(spec: Spec) -> dict[str, Any]:
    """Return the public part of a request, as JSON values.

    Fields that were not set are left out, the base model's path is reduced to its name, and whatever looks like a token
    is redacted.
    """
    shown = spec.model_dump(mode="json", include=set(OF_SPEC), exclude_none=True)
    shown["dataset_columns"] = dict(spec.dataset_columns)  # null is a value of these
    if not spec.dataset_columns:
        del shown["dataset_columns"]
    shown["training_config"] = _only(shown["training_config"], OF_TRAINING)
    shown["training_config"]["base_model_id"] = public_name(spec.training_config.base_model_id)
    shown["export_config"] = _only(shown["export_config"], OF_EXPORT)
    return {name: _redacted(value) for name, value in shown.items()}


def _only(fields: dict[str, Any], allowed: frozenset[str]) -> dict[str, Any]:
    """Return the fields whose names are allowed."""
    return {name: value for name, value in fields.items() if name in allowed}


def _redacted(value: Any) -> Any:
    """Return a JSON value with tokens in its strings and keys redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_redacted(each) for each in value]
    if isinstance(value, dict):
        return {redact(name): _redacted(each) for name, each in value.items()}
    return value
