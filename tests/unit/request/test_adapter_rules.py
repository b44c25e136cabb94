"""Rules about the layers and the variant of an adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gemtune.request.base_model import ModelFiles
from gemtune.request.facts import Facts
from tests.fakes import FACTS, checked

MIXTURE = "google/gemma-4-26B-A4B-it"
LOC = "training_config."


def problems(facts: Facts = FACTS, **training: Any) -> dict[str, str]:
    config = {"base_model_id": "google/gemma-3-4b-it", "lora_dropout": 0} | training
    reading = checked({"processed_dataset_id": "chats", "training_config": config}, facts=facts)
    return {".".join(map(str, problem.loc)): problem.code for problem in reading.problems}


@pytest.mark.parametrize(
    "names",
    [
        ["q_proj"],
        ["mlp.down_proj", "self_attn.v_proj"],
        ["layers.3.self_attn.q_proj", "model.language_model.layers.33.mlp.up_proj", "model.layers.0.mlp.up_proj"],
        "all-linear",
    ],
)
def test_ends_of_names_of_the_language_models_layers_are_accepted(names: Any) -> None:
    assert problems(target_modules=names, use_dora=True, use_rslora=True) == {}


@pytest.mark.parametrize(
    "name",
    [
        "q_prj",
        "lm_head",
        "embed_tokens",
        "fc1",
        "mlp.q_proj",
        "layers.34.mlp.up_proj",
        "layers.x.mlp.up_proj",
        "proj",
        "vision_tower.q_proj",
        "router.proj",
        "experts.down_proj",
        "per_layer_input_gate",
    ],
)
def test_other_names_are_refused_with_those_that_exist(name: str) -> None:
    config = {"base_model_id": "google/gemma-3-4b-it", "target_modules": ["q_proj", name]}
    (problem,) = checked({"processed_dataset_id": "chats", "training_config": config}).problems
    assert (problem.code, problem.loc) == ("no_such_layer", ("training_config", "target_modules"))
    assert name in problem.msg
    assert "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" in str(problem.hint)


def test_layers_of_a_mixture_and_of_per_layer_inputs_are_known_by_model() -> None:
    names = ["router.proj", "experts.down_proj", "q_proj"]
    assert problems(base_model_id=MIXTURE, target_modules=names) == {}
    assert problems(base_model_id=MIXTURE, target_modules=names, use_dora=True) == {LOC + "use_dora": "dora_on_experts"}
    assert problems(base_model_id=MIXTURE, use_dora=True) == {LOC + "use_dora": "dora_on_experts"}
    assert problems(base_model_id=MIXTURE, use_dora=True, target_modules="all-linear") == {}
    per_layer = {"target_modules": ["per_layer_input_gate"]}
    assert problems(base_model_id="google/gemma-4-E2B-it", **per_layer) == {}
    assert problems(base_model_id="google/gemma-4-31B-it", **per_layer) == {LOC + "target_modules": "no_such_layer"}


def test_a_model_of_an_unknown_name_is_checked_when_its_config_is_known() -> None:
    unknown = {"base_model_id": "me/mine", "target_modules": ["fc1"]}
    assert problems(**unknown) == {}
    files = ModelFiles({"model_type": "gemma3_text"})
    assert problems(replace(FACTS, base_model=files), **unknown) == {LOC + "target_modules": "no_such_layer"}


def test_options_without_an_adapter_or_with_unsloth_are_refused() -> None:
    options = {"target_modules": ["q_proj"], "use_rslora": True, "use_dora": True, "train_embeddings": True}
    assert problems(method="Full", lora_dropout=0.05, **options) == {
        LOC + name: "field_without_use" for name in options
    }
    assert problems(provider="unsloth", **options) == {LOC + name: "not_with_unsloth" for name in options}
    assert problems(provider="unsloth", base_job_id="training_x") == {LOC + "base_job_id": "not_with_unsloth"}


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ("q_proj", {LOC + "target_modules": "list_type"}),
        ([], {LOC + "target_modules": "too_short"}),
        (["q_proj", "q_proj"], {LOC + "target_modules": "no_such_layer"}),
        (["q_proj", ".*"], {LOC + "target_modules.1": "bad_form"}),
        ([7], {LOC + "target_modules.0": "string_type"}),
    ],
)
def test_what_is_no_list_of_names_is_refused(names: Any, code: dict[str, str]) -> None:
    assert problems(target_modules=names) == code


def test_new_tokens_are_for_every_method_but_not_for_unsloth_or_embeddings_per_layer() -> None:
    tokens = {"new_tokens": ["<think>", "<answer>"]}
    for method in ("LoRA", "QLoRA", "Full"):
        assert problems(method=method, **tokens) == {}
    assert problems(provider="unsloth", **tokens) == {LOC + "new_tokens": "not_with_unsloth"}
    assert problems(provider="unsloth", method="Full", **tokens) == {LOC + "new_tokens": "not_with_unsloth"}
    for model in ("google/gemma-4-E2B-it", "google/gemma-4-E4B", "google/gemma-3n-E2B-it"):
        assert problems(base_model_id=model, **tokens) == {LOC + "new_tokens": "embeddings_per_layer"}
    assert problems(base_model_id="google/gemma-4-31B-it", **tokens) == {}
    config = {"model_type": "gemma4_text", "hidden_size_per_layer_input": 16}
    text = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    files = replace(FACTS, base_model=ModelFiles(config | text))
    assert problems(files, base_model_id="me/mine", **tokens) == {LOC + "new_tokens": "embeddings_per_layer"}


@pytest.mark.parametrize("text", ["", "two words", "a\tb", " a", "a\u2581b", "a\x00", "a\u00a0b", "x" * 101])
def test_a_new_token_has_no_blanks_and_is_not_long(text: str) -> None:
    assert list(problems(new_tokens=["<a>", text])) == [LOC + "new_tokens.1"]


def test_a_new_token_is_listed_once() -> None:
    assert problems(new_tokens=["<a>", "<b>", "<a>"]) == {LOC + "new_tokens": "token_exists"}
