"""Requests for reinforcement learning: defaults, bounds and rewards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from gemtune.request import rl_spec
from gemtune.request.matching import schemas
from gemtune.request.rl_spec import GrpoConfig
from gemtune.request.training_config import Provider
from tests.fakes import FACTS, checked, request

LENGTH = {"type": "length", "at_most": 20}


def problems(rl: Any, **training: Any) -> dict[str, str]:
    """Return location below rl_config -> code of all problems.

    Locations outside rl_config are given in full.
    """
    body = request(training={"method": "RL", "rl_config": rl} | training)
    all_problems = checked(body).problems
    assert all(problem.hint for problem in all_problems if problem.code not in PYDANTIC_CODES)
    return {".".join(map(str, p.loc)).removeprefix("training_config.rl_config."): p.code for p in all_problems}


PYDANTIC_CODES = {
    "missing_field",
    "not_one_of",
    "greater_than_equal",
    "less_than_equal",
    "less_than",
    "greater_than",
    "bad_form",
    "too_long",
    "string_too_short",
    "int_type",
    "dict_type",
    "model_attributes_type",
}


def grpo(*rewards: Any, **fields: Any) -> dict[str, Any]:
    return {"algorithm": "grpo", "rewards": list(rewards) or [LENGTH]} | fields


def test_each_algorithm_is_accepted_with_its_defaults() -> None:
    assert problems(grpo()) == {}
    assert problems({"algorithm": "dpo"}) == {}
    assert problems({"algorithm": "kto"}) == {}
    body = request(training={"method": "RL", "rl_config": grpo({"type": "exact_answer"})})
    spec = checked(body).require_valid().spec()
    assert spec.model_dump(mode="json")["training_config"]["rl_config"] == {
        "algorithm": "grpo",
        "num_generations": 8,
        "max_completion_length": 256,
        "temperature": 1.0,
        "beta": 0.0,
        "loss_type": "dapo",
        "rewards": [
            {
                "name": None,
                "weight": 1.0,
                "after": None,
                "answer_column": "answer",
                "type": "exact_answer",
                "ignore_case": False,
            }
        ],
    }


def test_method_and_rl_config_go_together() -> None:
    assert problems(None) == {"training_config.rl_config": "missing_field"}
    other_problems = checked(request(training={"rl_config": grpo()})).problems
    assert [(p.loc, p.code) for p in other_problems] == [(("training_config", "rl_config"), "field_without_use")]


@pytest.mark.parametrize(
    ("rl", "where", "code"),
    [
        ({}, "algorithm", "missing_field"),
        ({"algorithm": "ppo"}, "algorithm", "not_one_of"),
        ("grpo", "training_config.rl_config", "dict_type"),
        ({"algorithm": "grpo"}, "rewards", "missing_field"),
        (grpo(num_generations=1), "num_generations", "greater_than_equal"),
        (grpo(num_generations=3), "num_generations", "groups_not_whole"),
        (grpo(num_generations=32), "num_generations", "groups_not_whole"),
        (grpo(max_completion_length=0), "max_completion_length", "greater_than_equal"),
        (grpo(max_completion_length=2048), "max_completion_length", "completion_too_long"),
        (grpo(temperature=0), "temperature", "greater_than"),
        (grpo(beta=-1), "beta", "greater_than_equal"),
        (grpo(loss_type="ppo"), "loss_type", "not_one_of"),
        (grpo(reward=1), "reward", "unknown_field"),
        (grpo(grpo=1), "grpo", "unknown_field"),
        (grpo(label_smoothing=0.1), "label_smoothing", "unknown_field"),
        (grpo({"type": "python"}), "rewards.0.type", "not_one_of"),
        (grpo({}), "rewards.0.type", "missing_field"),
        (grpo(LENGTH | {"code": "import os"}), "rewards.0.code", "unknown_field"),
        (grpo(LENGTH | {"weight": 1000}), "rewards.0.weight", "less_than_equal"),
        (grpo(LENGTH | {"weight": 0}), "rewards", "nothing_to_learn"),
        (grpo(LENGTH | {"name": "a/b"}), "rewards.0.name", "bad_form"),
        (grpo(LENGTH, LENGTH), "rewards", "repeated_value"),
        (grpo(*[LENGTH | {"name": f"n{i}"} for i in range(17)]), "rewards", "too_long"),
        (grpo({"type": "regex"}), "rewards.0.pattern", "missing_field"),
        (grpo({"type": "regex", "pattern": "("}), "rewards.0.pattern", "bad_pattern"),
        (grpo({"type": "regex", "pattern": r"(a)\1"}), "rewards.0.pattern", "bad_pattern"),
        (grpo({"type": "regex", "pattern": "(?<=a)b"}), "rewards.0.pattern", "bad_pattern"),
        (grpo({"type": "regex", "pattern": "((a{500}){500}){500}"}), "rewards.0.pattern", "bad_pattern"),
        (grpo({"type": "regex", "pattern": r"\pL{1000}"}), "rewards.0.pattern", "bad_pattern"),  # takes too much memory
        (grpo({"type": "regex", "pattern": ""}), "rewards.0.pattern", "string_too_short"),
        (grpo({"type": "json_schema", "json_schema": {"type": "x"}}), "rewards.0.json_schema", "bad_schema"),
        (grpo({"type": "length"}), "rewards.0", "missing_field"),
        (grpo({"type": "length", "at_least": 9, "at_most": 3}), "rewards.0", "empty_range"),
        (grpo({"type": "length", "at_least": 300}), "rewards.0.at_least", "out_of_reach"),
        (grpo({"type": "numeric_answer", "tolerance": -1}), "rewards.0.tolerance", "greater_than_equal"),
        (grpo({"type": "exact_answer", "after": ""}), "rewards.0.after", "string_too_short"),
        ({"algorithm": "dpo", "beta": 0}, "beta", "greater_than"),
        ({"algorithm": "dpo", "loss_type": "dapo"}, "loss_type", "not_one_of"),
        ({"algorithm": "dpo", "num_generations": 4}, "num_generations", "unknown_field"),
        ({"algorithm": "dpo", "loss_type": "exo_pair"}, "label_smoothing", "missing_field"),
        ({"algorithm": "dpo", "label_smoothing": 0.1}, "label_smoothing", "field_without_use"),
        ({"algorithm": "dpo", "loss_type": "robust", "label_smoothing": 0.5}, "label_smoothing", "less_than"),
    ],
)
def test_an_invalid_rl_config_is_refused_at_its_field(rl: Any, where: str, code: str) -> None:
    assert problems(rl) == {where: code}


@pytest.mark.parametrize(
    ("training", "where", "code"),
    [
        ({"packing": True}, "training_config.packing", "packing_not_possible"),
        ({"lora_dropout": 0.1}, "training_config.lora_dropout", "field_without_use"),
        ({"evaluation_metrics": ["accuracy"]}, "training_config.evaluation_metrics", "field_without_use"),
        ({"evaluation_metrics": ["loss"]}, "training_config.evaluation_metrics", "field_without_use"),
        ({"batch_size": 3}, "num_generations", "groups_not_whole"),
        ({"max_seq_length": 256}, "max_completion_length", "completion_too_long"),
        ({"too_long": "cut"}, "training_config.too_long", "field_without_use"),
    ],
)
def test_training_fields_that_do_not_go_with_rl_are_refused(training: Any, where: str, code: str) -> None:
    assert problems(grpo(), **training) == {where: code}
    assert problems(grpo(), lora_dropout=0.05, evaluation_metrics=["accuracy", "perplexity"]) == {}
    assert problems({"algorithm": "dpo"}, evaluation_metrics=["loss"], too_long="cut") == {}


@pytest.mark.parametrize(
    ("training", "group", "length"),
    [
        ({}, 8, 256),
        ({"batch_size": 4, "gradient_accumulation_steps": 1}, 4, 256),
        ({"max_seq_length": 16}, 8, 8),
        ({"batch_size": 9, "gradient_accumulation_steps": 2}, 6, 256),
        ({"max_seq_length": 512}, 8, 256),
        ({"batch_size": 24, "gradient_accumulation_steps": 1, "max_seq_length": 100}, 8, 50),
    ],
)
def test_a_default_grpo_config_fits_the_batch_and_the_length(training: Any, group: int, length: int) -> None:
    assert FACTS.dataset is not None
    facts = replace(FACTS, dataset=replace(FACTS.dataset, columns=frozenset({"prompt", "answer"})))
    rl = checked(request(training={"method": "RL"} | training), facts=facts).require_valid().training_config.rl_config
    assert isinstance(rl, GrpoConfig)
    assert (rl.num_generations, rl.max_completion_length) == (group, length)


def test_a_batch_that_no_group_divides_is_refused() -> None:
    assert FACTS.dataset is not None
    facts = replace(FACTS, dataset=replace(FACTS.dataset, columns=frozenset({"prompt", "answer"})))
    body = request(training={"method": "RL", "batch_size": 11, "gradient_accumulation_steps": 1})
    assert [problem.code for problem in checked(body, facts=facts).problems] == ["groups_not_whole"]


@pytest.mark.parametrize("provider", get_args(Provider))
@pytest.mark.parametrize("rl", [grpo(), {"algorithm": "dpo"}])
def test_rl_is_accepted_with_pictures_and_with_every_provider(rl: dict[str, Any], provider: str) -> None:
    assert problems(rl, provider=provider) == {}
    training = {"method": "RL", "rl_config": rl, "provider": provider, "base_model_id": "google/gemma-3-4b-it"}
    assert checked(request(modality="vision", training=training)).problems == ()


def test_all_problems_of_an_rl_config_are_reported_at_once() -> None:
    first = {"type": "regex", "pattern": "("}
    second = {"type": "length", "at_least": 9, "at_most": 3}
    assert problems(grpo(first, second, num_generations=3, max_completion_length=4000)) == {
        "rewards.0.pattern": "bad_pattern",
        "rewards.1": "empty_range",
        "num_generations": "groups_not_whole",
        "max_completion_length": "completion_too_long",
    }


def test_the_hint_for_a_misspelled_field_of_a_reward_names_the_right_one() -> None:
    body = request(training={"method": "RL", "rl_config": grpo({"type": "regex", "patern": "a", "pattern": "a"})})
    (problem,) = checked(body).problems
    assert problem.hint == "did you mean 'pattern'?"


# A schema with 60 ** 6 parts, too many to visit.
GROWING = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 60} for i in range(6)} | {"d6": {"type": "null"}}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nope"}, "type"),
        ({"$ref": "https://example.com/schema"}, "in the same schema"),
        ({"$ref": "#/$defs/none"}, "refers to nothing"),
        ({"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}, "refers to itself"),
        ({"$defs": GROWING, "$ref": "#/$defs/d0"}, "parts"),
        ({"pattern": "(a)\\1"}, "escape"),
        ({"items": {"pattern": "(?=a)"}}, "perl operator"),
        ({"patternProperties": {"^(a+)+$": {}}}, "not supported"),
        ({"unevaluatedProperties": False}, "not supported"),
        ({"$id": "https://example.com/x"}, "not supported"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "$schema"),
        ({"const": float("nan")}, "number"),
        ({"description": "x" * 70_000}, "longer"),
        ({"properties": {"a": 3}}, "properties/a"),
    ],
)
def test_an_invalid_or_hostile_schema_is_refused(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        schemas.build_validator(schema)
    assert reason in str(caught.value)


def test_a_deeply_nested_schema_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(60):
        deep = {"items": deep}
    assert problems(grpo({"type": "json_schema", "json_schema": deep})) == {"rewards.0.json_schema": "bad_schema"}


def nested_items(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def of_parts(count: int) -> dict[str, Any]:
    """Return a schema whose references lead to so many parts.

    Each reference has 101 parts: itself, its target, and 99 inside.
    """
    references, others = divmod(count - 1, 101)
    parts = [{"$ref": "#/$defs/a"}] * references + [{}] * others
    return {"$defs": {"a": {"anyOf": [{}] * 99}}, "anyOf": parts}


@pytest.mark.parametrize(
    ("largest", "too_large", "reason"),
    [
        ({"description": "x" * (64 * 1024 - 19)}, {"description": "x" * (64 * 1024 - 18)}, "longer than 65536 bytes"),
        (nested_items(32), nested_items(33), "deeper than 32 levels"),
        (of_parts(5000), of_parts(5001), "more than 5000 parts"),
    ],
)
def test_a_schema_may_be_as_large_as_the_limit(largest: dict[str, Any], too_large: dict[str, Any], reason: str) -> None:
    assert schemas.build_validator(largest).is_valid(3)
    with pytest.raises(ValueError, match=reason):
        schemas.build_validator(too_large)


def test_a_schema_too_deep_to_be_written_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"items": deep}
    with pytest.raises(ValueError, match="nested too deep"):
        schemas.build_validator(deep)


def test_a_pattern_is_about_texts_only() -> None:
    validator = schemas.build_validator({"pattern": "^a+$"})
    assert [validator.is_valid(value) for value in ("aa", "b", 3, None, ["b"])] == [True, False, True, True, True]


def test_names_of_properties_are_not_read_as_keywords() -> None:
    validator = schemas.build_validator({"properties": {"$id": {"type": "string"}, "pattern": {"type": "integer"}}})
    assert validator.is_valid({"$id": "x", "pattern": 3})
    assert not validator.is_valid({"pattern": "x"})


@pytest.mark.parametrize(
    "schema",
    [
        {"const": {"$id": "x"}},
        {"enum": [{"$id": "x"}]},
        {"default": {"pattern": "(a)\\1"}},
        {"examples": [{"$id": "x"}]},
        {"$defs": {"unused": {"$anchor": "x"}}},
        {"definitions": {"unused": {"$anchor": "x"}}},
    ],
)
def test_values_and_unused_definitions_are_not_checked_as_schemas(schema: dict[str, Any]) -> None:
    assert schemas.build_validator(schema) is not None
    used = {"$defs": {"used": {"$anchor": "x"}}, "$ref": "#/$defs/used"}
    with pytest.raises(ValueError, match=r"\$anchor is not supported"):
        schemas.build_validator(used)


@pytest.mark.parametrize(
    ("rewards", "columns"),
    [
        ([LENGTH], []),
        ([{"type": "regex", "pattern": "a"}], []),
        ([{"type": "exact_answer"}], ["answer"]),
        ([LENGTH, {"type": "numeric_answer", "answer_column": "solution"}], ["solution"]),
        (
            [{"type": "exact_answer"}, {"type": "numeric_answer", "answer_column": "b"}, {"type": "numeric_answer"}],
            ["answer", "b"],
        ),
    ],
)
def test_rows_need_the_columns_that_rewards_compare_with(rewards: list[dict[str, Any]], columns: list[str]) -> None:
    config = GrpoConfig.model_validate({"algorithm": "grpo", "rewards": rewards})
    assert rl_spec.answer_columns(config) == columns


@pytest.mark.parametrize(
    ("columns", "algorithm"),
    [
        ({"prompt", "chosen", "rejected"}, "dpo"),
        ({"input", "preferred_output", "non_preferred_output"}, "dpo"),
        ({"prompt", "completion", "label"}, "kto"),
        ({"messages", "label"}, "kto"),
        ({"question", "answer"}, "grpo"),
        ({"prompt", "label"}, None),
        ({"prompt", "completion"}, None),
        ({"prompt", "answer", "chosen", "rejected"}, None),
        ({"prompt", "completion", "answer", "label"}, None),
    ],
)
def test_columns_imply_an_algorithm_or_none(columns: set[str], algorithm: str | None) -> None:
    config = rl_spec.infer_rl_config(columns, completions=8, max_seq_length=2048)
    assert (None if config is None else config.algorithm) == algorithm


@pytest.mark.parametrize(
    ("fields", "columns", "algorithm"),
    [
        # The rows cannot be read when the job is submitted, or fit two algorithms.
        ({"dataset_format": "openai_preference"}, None, "dpo"),
        ({"dataset_format": "labelled"}, {"prompt", "completion", "answer", "label"}, "kto"),
        ({"dataset_format": "prompt"}, {"prompt", "answer", "label", "completion"}, "grpo"),
        ({}, {"conversations", "label"}, "kto"),
        ({"dataset_columns": {"chosen": "better", "rejected": "worse"}}, {"prompt", "better", "worse"}, "dpo"),
        ({"dataset_columns": {"label": None}}, {"prompt", "answer", "completion", "label"}, "grpo"),
    ],
)
def test_the_stated_format_or_renamed_columns_imply_the_algorithm(
    fields: dict[str, Any], columns: set[str] | None, algorithm: str
) -> None:
    assert FACTS.dataset is not None
    facts = replace(FACTS, dataset=replace(FACTS.dataset, columns=columns and frozenset(columns)))
    reading = checked(request(training={"method": "RL"}, **fields), facts=facts)
    assert reading.request is not None, reading.problems
    assert not reading.problems
    config = reading.request.training_config.rl_config
    assert config is not None
    assert config.algorithm == algorithm


@pytest.mark.parametrize(
    ("batch_size", "loss_type", "codes"),
    [(1, "kto", {"training_config.batch_size": "batch_of_one"}), (2, "kto", {}), (1, "apo_zero_unpaired", {})],
)
def test_kto_needs_other_rows_in_a_batch(batch_size: int, loss_type: str, codes: dict[str, str]) -> None:
    rl = {"algorithm": "kto", "loss_type": loss_type}
    assert problems(rl, batch_size=batch_size) == codes
    assert problems(rl, evaluation_metrics=["loss"]) == {}


def test_keywords_that_can_take_long_are_checked_by_functions_of_our_own() -> None:
    keywords = schemas.build_validator({}).VALIDATORS
    ours = {name for name, function in keywords.items() if function.__module__ == schemas.__name__}
    assert ours == {"pattern", "uniqueItems"}
