"""The part of a request that leaves for others to see: a run at W&B, a model card, a repository of the Hub.

An allow-list: a field that is in none of the sets here stays with the job. Webhook URLs carry tokens in their paths,
and local paths say whose machine it is.
"""

from __future__ import annotations

from typing import Any

from gemtune.redaction import redact
from gemtune.request.base_model import public_name
from gemtune.request.spec import Spec

OF_SPEC = frozenset({"processed_dataset_id", "job_name", "modality", "training_config", "export_config"})
OF_TRAINING = frozenset({
    "method", "base_model_id", "learning_rate", "batch_size", "epochs", "gradient_accumulation_steps", "provider",
    "eval_strategy", "eval_steps", "evaluation_metrics", "batch_eval_metrics", "lora_rank", "lora_alpha",
    "lora_dropout", "max_steps", "max_seq_length", "packing", "lr_scheduler_type", "warmup_ratio", "weight_decay",
    "save_steps", "logging_steps", "early_stopping_patience", "early_stopping_threshold", "load_best_model_at_end",
    "train_vision_tower", "rl_config", "seed", "machine",
})  # fmt: skip
OF_EXPORT = frozenset({"format", "quantization", "destination", "hf_repo_id"})
# Where a job's events go, and who is asked to show it: nobody else's business.
WITHHELD = frozenset({"notify", "wandb_config"})


def published(spec: Spec) -> dict[str, Any]:
    """Return what others may see of a request, as JSON values without fields that were left out: no path of a base
    model, and nothing that looks like a token."""
    shown = spec.model_dump(mode="json", include=set(OF_SPEC), exclude_none=True)
    shown["training_config"] = _only(shown["training_config"], OF_TRAINING)
    shown["training_config"]["base_model_id"] = public_name(spec.training_config.base_model_id)
    shown["export_config"] = _only(shown["export_config"], OF_EXPORT)
    return {name: _redacted(value) for name, value in shown.items()}


def _only(fields: dict[str, Any], allowed: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in allowed}


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_redacted(each) for each in value]
    if isinstance(value, dict):
        return {redact(name): _redacted(each) for name, each in value.items()}
    return value
