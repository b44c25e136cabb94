"""Bounds and defaults of all request fields, as a second copy to compare with.

A change that is made in one place only was not intended.
"""

from __future__ import annotations

from typing import Any

import pytest

from gemtune.request import rewards, rl_spec, spec, training_config
from gemtune.request.contract import Contract

# Ranges of numbers in mathematical notation or lengths of texts and lists in braces, then the default.
CAPS = {"max_cost_usd": "(0, 1000000000.0] = None", "max_hours": "(0, 1000000.0] = None"}
BOUNDS: dict[type[Contract], dict[str, str]] = {
    spec.TrainRequest: {
        "processed_dataset_id": "{1, 512}",
        "job_name": "{1, 200} = 'unnamed job'",
        "hf_token": "{1, 512} = None",
        **CAPS,
    },
    spec.ExportRequest: {"job_name": "{1, 200} = None", "hf_token": "{1, 512} = None", **CAPS},
    spec.ResumeRequest: CAPS,
    spec.WandbConfig: {"project": "{1, 128} = None", "api_key": "{1, 512} = None"},
    spec.Notify: {"webhook_url": "{0, 2048} = None"},
    training_config.TrainingConfig: {
        "base_model_id": "{0, 1024} = ''",
        "learning_rate": "(0, 1] = 0.0002",
        "batch_size": "[1, 1024] = 4",
        "epochs": "[1, 1000] = 3",
        "gradient_accumulation_steps": "[1, 1024] = 4",
        "eval_steps": "[1, 1000000] = 50",
        "lora_rank": "[1, 1024] = 16",
        "lora_alpha": "(0, 4096] = 16",
        "lora_dropout": "[0, 1) = 0.05",
        "target_modules": "{1, 32} = None",
        "new_tokens": "{1, 1000} = None",
        "max_steps": "[1, 10000000] = None",
        "max_seq_length": "[16, 131072] = None",
        "warmup_ratio": "[0, 1] = 0.0",
        "weight_decay": "[0, 1] = 0.0",
        "save_steps": "[1, 1000000] = None",
        "save_minutes": "[1, 10080] = 10",
        "logging_steps": "[1, 1000000] = 1",
        "early_stopping_patience": "[1, 1000] = None",
        "early_stopping_threshold": "[0, 100] = 0.0",
        "seed": "[0, 4294967295] = 42",
        "machine": "{0, 40} = None",
    },
    rl_spec.GrpoConfig: {
        "rewards": "{0, 16} = []",
        "num_generations": "[2, 256] = 8",
        "max_completion_length": "[1, 8192] = 256",
        "temperature": "(0, 10] = 1.0",
        "beta": "[0, 100] = 0.0",
    },
    rl_spec.DpoConfig: {"beta": "(0, 100] = 0.1", "label_smoothing": "[0, 0.5) = 0.0"},
    rl_spec.KtoConfig: {
        "beta": "(0, 100] = 0.1",
        "desirable_weight": "(0, 1000] = 1.0",
        "undesirable_weight": "(0, 1000] = 1.0",
    },
    rewards.ExactAnswer: {
        "weight": "[-100, 100] = 1.0",
        "after": "{1, 100} = None",
        "answer_column": "{1, 100} = 'answer'",
    },
    rewards.NumericAnswer: {
        "weight": "[-100, 100] = 1.0",
        "after": "{1, 100} = None",
        "answer_column": "{1, 100} = 'answer'",
        "tolerance": "[0, 1000000000000.0] = 0.0",
    },
    rewards.Regex: {"weight": "[-100, 100] = 1.0", "pattern": "{1, 1000}"},
    rewards.JsonSchema: {"weight": "[-100, 100] = 1.0"},
    rewards.Length: {
        "weight": "[-100, 100] = 1.0",
        "at_least": "[1, 8192] = None",
        "at_most": "[1, 8192] = None",
    },
}
# Defaults of optional fields without bounds.
DEFAULTS: dict[type[Contract], dict[str, Any]] = {
    spec.TrainRequest: {
        "modality": "text",
        "dataset_format": None,
        "dataset_columns": {},
        "wandb_config": None,
        "notify": None,
    },
    spec.ExportRequest: {"notify": None},
    training_config.TrainingConfig: {
        "method": "LoRA",
        "provider": "huggingface",
        "eval_strategy": "no",
        "lr_scheduler_type": "linear",
        "batch_eval_metrics": False,
        "train_on": "all_assistant_turns",
        "same_role": "refuse",
        "packing": False,
        "load_best_model_at_end": None,
        "train_vision_tower": False,
        "use_rslora": False,
        "use_dora": False,
        "train_embeddings": False,
        "rl_config": None,
    },
    spec.ExportConfig: {
        "format": "adapter",
        "quantization": None,
        "destination": "gcs",
        "hf_repo_id": None,
        "accept_loss": False,
    },
    rl_spec.GrpoConfig: {"loss_type": "dapo"},
    rl_spec.DpoConfig: {"loss_type": "sigmoid"},
    rl_spec.KtoConfig: {"loss_type": "kto"},
    rewards.ExactAnswer: {"name": None, "ignore_case": False},
}
COMPARES = {
    rewards.ExactAnswer: "answer",
    rewards.NumericAnswer: "number",
    rewards.Regex: "nothing",
    rewards.JsonSchema: "nothing",
    rewards.Length: "nothing",
}


def bounds(model: type[Contract]) -> dict[str, str]:
    """Return bounds and default of each field that has bounds.

    They are in the notation of the table BOUNDS.
    """
    notation = {}
    for name, field in model.model_json_schema()["properties"].items():
        facts = field
        for alternative in field.get("anyOf", ()):
            facts = facts | alternative
        text = ""
        if lengths := facts.keys() & {"minLength", "maxLength", "minItems", "maxItems"}:
            least = next((facts[key] for key in sorted(lengths) if key.startswith("min")), 0)
            text = f"{{{least}, {next(facts[key] for key in lengths if key.startswith('max'))}}}"
        elif facts.keys() & {"minimum", "exclusiveMinimum"}:
            low = f"[{facts['minimum']:,}" if "minimum" in facts else f"({facts['exclusiveMinimum']:,}"
            high = f"{facts['maximum']:,}]" if "maximum" in facts else f"{facts['exclusiveMaximum']:,})"
            text = f"{low.replace(',', '')}, {high.replace(',', '')}"
        if text:
            notation[name] = text + (f" = {field['default']!r}" if "default" in field else "")
    return notation


@pytest.mark.parametrize("model", BOUNDS, ids=lambda model: model.__name__)
def test_bounds_match_the_table(model: type[Contract]) -> None:
    stated = bounds(model)
    differing = {
        name: stated.get(name) for name in stated.keys() | BOUNDS[model] if stated.get(name) != BOUNDS[model].get(name)
    }
    assert not differing, f"state in BOUNDS what was decided for {differing}"


@pytest.mark.parametrize("model", DEFAULTS, ids=lambda model: model.__name__)
def test_defaults_match_the_table(model: type[Contract]) -> None:
    fields = {name: field for name, field in model.model_fields.items() if name in DEFAULTS[model]}
    assert {name: field.get_default(call_default_factory=True) for name, field in fields.items()} == DEFAULTS[model]


def test_each_reward_compares_with_its_column() -> None:
    assert {model: model.compares for model in COMPARES} == COMPARES  # type: ignore[attr-defined]


def test_rules_name_fields_that_requests_have() -> None:
    """Check the names: a rule for a misspelled field would run regardless."""
    from gemtune.request.rules import RULES

    for rule in RULES:
        for field in rule.fields:
            model: Any = spec.TrainRequest
            for name in field:
                assert name in model.model_fields, f"{rule.check.__name__}: {field}"
                model = model.model_fields[name].annotation
