"""Properties of every accepted request.

With its defaults written out, or sent as its own spec, a request means the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemtune.request.facts import Facts
from gemtune.request.parsing import Reading
from gemtune.request.spec import ExportConfig, Spec, TrainRequest
from gemtune.request.training_config import DEFAULT_SEQ_LENGTH, TrainingConfig
from tests.fakes import FACTS, checked

assert FACTS.dataset is not None
PAIRS = replace(FACTS, dataset=replace(FACTS.dataset, columns=frozenset({"prompt", "chosen", "rejected"})))

LENGTH = {"type": "length", "at_most": 20}
WEIGHTED = {"type": "numeric_answer", "after": "####", "weight": -2.0, "name": "sum"}
# For every field its default and other values. Combinations that the rules refuse are sorted out later.
TRAINING: Mapping[str, Any] = {
    "method": ["LoRA", "QLoRA", "Full", "RL"],
    "base_model_id": ["google/gemma-3-4b-it", "google/gemma-3-270m-it", "me/my-own"],
    "base_job_id": [None, "training_before"],
    "learning_rate": [2e-4, 1e-6, 1],
    "batch_size": [4, 1, 3],
    "epochs": [3, 1],
    "gradient_accumulation_steps": [4, 8],
    "provider": ["huggingface", "unsloth"],
    "eval_strategy": ["no", "steps", "epoch"],
    "eval_steps": [50, 7],
    "evaluation_metrics": [["accuracy", "perplexity"], ["loss"], [], ["perplexity", "loss", "accuracy"]],
    "batch_eval_metrics": [False, True],
    "lora_rank": [16, 8],
    "lora_alpha": [16, 0.5],
    "lora_dropout": [0.05, 0],
    "target_modules": [None, ["q_proj", "mlp.up_proj"], ["v_proj"]],
    "use_rslora": [False, True],
    "use_dora": [False, True],
    "new_tokens": [None, ["<a>", "b:c"], ["<b>"]],
    "train_embeddings": [False, True],
    "max_steps": [None, 9],
    "max_seq_length": [None, 512],
    "too_long": ["drop", "refuse"],
    "train_on": ["all_assistant_turns", "last_turn", "weights"],
    "same_role": ["refuse", "merge"],
    "packing": [False, True],
    "lr_scheduler_type": ["linear", "cosine"],
    "warmup_ratio": [0.0, 0.5],
    "weight_decay": [0.0, 0.5],
    "save_steps": [None, 3],
    "save_minutes": [10, 1],
    "logging_steps": [1, 5],
    "early_stopping_patience": [None, 2],
    "early_stopping_threshold": [0.0, 0.5],
    "load_best_model_at_end": [None, True, False],
    "train_vision_tower": [False, True],
    "rl_config": [
        None,
        {"algorithm": "dpo"},
        {"algorithm": "dpo", "loss_type": "robust", "label_smoothing": 0.25},
        {"algorithm": "grpo", "rewards": [LENGTH, WEIGHTED]},
        {"algorithm": "grpo", "rewards": [{"type": "exact_answer"}], "num_generations": 4},
    ],
    "seed": [42, 0],
    "machine": [None, "local"],
}
EXPORT: Mapping[str, Any] = {
    "format": ["adapter", "merged", "gguf"],
    "quantization": [None, "none", "fp16", "q4", "f16", "q8_0", "q4_k_m", "q5_k_m", "q2_k"],
    "destination": ["gcs", "hfhub"],
    "hf_repo_id": [None, "me/mine"],
    "accept_loss": [False, True],
}
REQUEST: Mapping[str, Any] = {
    "job_name": ["unnamed job", "Mine"],
    "dataset_format": [None, "openai", "alpaca"],
    "dataset_columns": [{}, {"messages": "conv", "label": None}],
    "modality": ["text", "vision", "audio"],
    "wandb_config": [None, {}, {"project": "boats", "api_key": "a fake key"}],
    "notify": [None, {}, {"webhook_url": "https://example.com/hook"}],
    "hf_token": [None, "hf_fakefakefake", "secret:gemtune-user-mine"],
    "priority": ["normal", "high", "low"],
    "pause_after": [None, "prepare"],
    "max_hours": [None, 0.5],
    "max_cost_usd": [None, 2.5],
}


def some(values: Mapping[str, Any], **parts: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for objects with some of these fields."""
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(each) for name, each in values.items()} | parts)


@st.composite
def accepted(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a request and drop the fields that the rules refuse."""
    body = draw(some(REQUEST, export_config=some(EXPORT))) | {"processed_dataset_id": "chats"}
    body["training_config"] = {"base_model_id": "google/gemma-3-4b-it"} | draw(some(TRAINING))
    while problems := checked(body, facts=PAIRS).problems:
        parent, field = body, str(problems[0].loc[0])
        for part in problems[0].loc[1:]:
            if isinstance(parent.get(field), dict) and part in parent[field]:
                parent, field = parent[field], str(part)
        if field not in parent or field in ("training_config", "processed_dataset_id", "base_model_id"):
            return {"processed_dataset_id": "chats", "training_config": {"base_model_id": "google/gemma-3-4b-it"}}
        del parent[field]
    return body


def spec_of(body: Any, facts: Facts = PAIRS) -> Spec:
    reading: Reading[TrainRequest] = checked(body, facts=facts)
    assert reading.problems == (), reading.problems
    return reading.require_valid().spec()


def meaning(spec: Spec) -> Any:
    """Return the spec with the values that its absent fields stand for."""
    training, export = spec.training_config, spec.export_config
    resolved = {
        "training_config": training.model_dump()
        | {
            "max_seq_length": training.max_seq_length or DEFAULT_SEQ_LENGTH,
            "load_best_model_at_end": training.keeps_best,
            "machine": training.machine or "local",
        },
        "export_config": export.model_dump() | {"quantization": spec.quantization},
    }
    return spec.model_dump() | resolved


def test_every_field_is_tried_with_its_default_and_another_value() -> None:
    assert TRAINING.keys() == TrainingConfig.model_fields.keys()
    assert EXPORT.keys() == ExportConfig.model_fields.keys()
    parts = {"processed_dataset_id", "training_config", "export_config"}
    assert REQUEST.keys() | parts == TrainRequest.model_fields.keys()
    for values, model in ((TRAINING, TrainingConfig), (EXPORT, ExportConfig), (REQUEST, TrainRequest)):
        for name, tried in values.items():
            field = model.model_fields[name]
            assert field.is_required() or field.default in tried or name == "base_model_id", name
            assert len(tried) > 1, name


@settings(deadline=None)
@given(accepted())
def test_the_spec_of_an_accepted_request_is_accepted_and_is_its_own_spec(body: Any) -> None:
    spec = spec_of(body)
    resubmitted = spec.model_dump(mode="json")
    if body.get("hf_token") is not None:
        resubmitted["hf_token"] = body["hf_token"]
    assert spec_of(resubmitted) == spec


SCHEMA = TrainRequest.model_json_schema()


@settings(deadline=None)
@given(accepted())
def test_writing_out_documented_defaults_changes_nothing(body: Any) -> None:
    assert spec_of(written_out(body, SCHEMA)) == spec_of(body)


@settings(deadline=None)
@given(accepted())
def test_the_meaning_of_absent_fields_may_be_written_out(body: Any) -> None:
    spec = spec_of(body)
    stated = json.loads(json.dumps(meaning(spec))) | {"hf_token": body.get("hf_token")}
    assert meaning(spec_of(stated)) == meaning(spec)


@pytest.mark.parametrize("field", sorted(TrainingConfig.model_fields))
def test_each_default_is_accepted_by_itself(field: str) -> None:
    info = TrainingConfig.model_fields[field]
    if field != "base_model_id":  # which is required where there is no base_job_id
        body = {"processed_dataset_id": "chats", "training_config": {"base_model_id": "google/gemma-3-4b-it"}}
        stated = {**body, "training_config": {**body["training_config"], field: info.default}}  # type: ignore[dict-item]
        assert spec_of(stated) == spec_of(body)


def written_out(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return a document with all defaults that its schema documents."""
    definitions = schema["$defs"]

    def filled(value: Any, schema: Mapping[str, Any]) -> Any:
        if "$ref" in schema:
            return filled(value, definitions[schema["$ref"].rpartition("/")[2]])
        for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            if matches(value, branch):
                return filled(value, branch)
        if isinstance(value, list):
            return [filled(each, schema.get("items", {})) for each in value]
        if not isinstance(value, dict) or "properties" not in schema:
            return value
        properties = schema["properties"]
        defaults = {name: each["default"] for name, each in properties.items() if "default" in each}
        return {name: filled(each, properties[name]) for name, each in (defaults | value).items()}

    def matches(value: Any, branch: Mapping[str, Any]) -> bool:
        """Return whether a branch of the schema fits a value.

        Branches of objects differ in their constants.
        """
        if "$ref" in branch:
            return matches(value, definitions[branch["$ref"].rpartition("/")[2]])
        if "oneOf" in branch:
            return isinstance(value, dict)
        if not isinstance(value, dict) or branch.get("type") != "object":
            return isinstance(value, list) and branch.get("type") == "array"
        constants = {name: each["const"] for name, each in branch["properties"].items() if "const" in each}
        return all(value.get(name) == constant for name, constant in constants.items())

    return filled(value, schema)
