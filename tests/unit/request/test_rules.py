"""Rules across fields: each refuses, and keeps silent about an invalid field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gemtune.errors import Problem
from gemtune.families.size import ModelSize, uniform_size
from gemtune.machines.cost import Prices
from gemtune.request import rules
from gemtune.request.base_model import ModelFiles
from gemtune.request.facts import DatasetFiles, Deployment, Facts
from gemtune.request.parsing import complete_export_request, read_export
from gemtune.request.spec import ExportRequest
from tests.fakes import FACTS, checked, request

BARE = Deployment(
    machines=("local",),
    local_folders=False,
    webhooks_to_loopback=False,
    has_hf_token=False,
    has_unsloth=False,
    may_have_gpu=False,
    has_timm=False,
    wandb_needs_key=True,
)
CLOUD = replace(BARE, machines=("l4", "rtx-pro-6000"))
LARGE: ModelSize = uniform_size(27_000_000_000, 62, 5376, 21504, 4096, 2048, 262_208)
LENGTH = {"type": "length", "at_most": 20}
GRPO = {"algorithm": "grpo", "rewards": [LENGTH]}
NO_DATASET = Facts(FACTS.deployment, dataset=DatasetFiles("gs://data/chats", exists=False))


def grpo(**fields: Any) -> dict[str, Any]:
    return {"method": "RL", "rl_config": GRPO | fields}


def problems(facts: Facts = FACTS, **fields: Any) -> list[tuple[str, str]]:
    """Return location and code of all problems, in the order of locations."""
    return in_order(checked(request(**fields), facts=facts).problems)


def in_order(all_problems: tuple[Problem, ...]) -> list[tuple[str, str]]:
    return sorted((".".join(map(str, problem.loc)), problem.code) for problem in all_problems)


REFUSED: list[tuple[dict[str, Any], Facts, str, str]] = [
    ({}, NO_DATASET, "processed_dataset_id", "dataset_not_found"),
    ({"training": {"base_model_id": "a/b/c"}}, FACTS, "training_config.base_model_id", "bad_base_model"),
    ({"training": {"base_model_id": "/srv/model"}}, FACTS, "training_config.base_model_id", "bad_base_model"),
    ({"training": {"packing": True, "provider": "unsloth"}}, FACTS, "training_config.packing", "packing_not_possible"),
    (
        {"training": {"early_stopping_threshold": 0.5}},
        FACTS,
        "training_config.early_stopping_threshold",
        "field_without_use",
    ),
    (
        {"training": {"early_stopping_patience": 2}},
        FACTS,
        "training_config.early_stopping_patience",
        "needs_evaluation",
    ),
    ({"training": {"eval_steps": 7}}, FACTS, "training_config.eval_steps", "field_without_use"),
    ({"dataset_columns": {"mesages": "conv"}}, FACTS, "dataset_columns.mesages", "unknown_field"),
    ({"dataset_columns": {"prompt": "a", "completion": "a"}}, FACTS, "dataset_columns.completion", "repeated_value"),
    ({"dataset_format": "openai", "training": grpo()}, FACTS, "dataset_format", "format_of_other_method"),
    ({"dataset_format": "preference", "training": grpo()}, FACTS, "dataset_format", "format_of_other_method"),
    ({"dataset_format": "prompt"}, FACTS, "dataset_format", "format_of_other_method"),
    (
        {"training": {"method": "RL", "rl_config": {"algorithm": "kto"}, "batch_size": 1}},
        FACTS,
        "training_config.batch_size",
        "batch_of_one",
    ),
    ({"training": {"train_on": "last_turn"} | grpo()}, FACTS, "training_config.train_on", "field_without_use"),
    (
        {"training": {"eval_steps": 7, "eval_strategy": "epoch"}},
        FACTS,
        "training_config.eval_steps",
        "field_without_use",
    ),
    ({"training": {"provider": "unsloth"}}, Facts(BARE), "training_config.provider", "unsloth_missing"),
    (
        {"training": {"provider": "unsloth", "method": "QLoRA"}},
        Facts(replace(BARE, has_unsloth=True)),
        "training_config.provider",
        "unsloth_needs_gpu",
    ),
    (
        {"training": {"base_model_id": "google/gemma-3n-E2B-it"}},
        Facts(BARE),
        "training_config.base_model_id",
        "timm_missing",
    ),
    ({"training": {"machine": "l4"}}, Facts(BARE), "training_config.machine", "machine_not_here"),
    (
        {"training": {"batch_size": 64}},
        Facts(CLOUD, size=LARGE),
        "training_config.machine",
        "needs_larger_machine",
    ),
    (
        {"training": {"method": "QLoRA"}, "export_config": {"format": "gguf"}},
        Facts(CLOUD, size=LARGE),
        "export_config.format",
        "needs_larger_machine",
    ),
    (
        {"export_config": {"destination": "hfhub", "hf_repo_id": "me/mine"}},
        Facts(BARE),
        "hf_token",
        "missing_field",
    ),
    ({"wandb_config": {"project": "boats"}}, Facts(BARE), "wandb_config.api_key", "missing_field"),
    (
        {"notify": {"webhook_url": "http://127.0.0.1:9/x"}},
        Facts(BARE),
        "notify.webhook_url",
        "bad_webhook_url",
    ),
]


@pytest.mark.parametrize(("fields", "facts", "where", "code"), REFUSED)
def test_a_request_that_breaks_a_rule_is_refused_at_the_field(
    fields: dict[str, Any], facts: Facts, where: str, code: str
) -> None:
    assert problems(facts, **fields) == [(where, code)]


@pytest.mark.parametrize(
    ("fields", "facts"),
    [
        ({"training": {"packing": True}}, FACTS),
        (
            {"training": {"early_stopping_patience": 2, "early_stopping_threshold": 0.5, "eval_strategy": "steps"}},
            FACTS,
        ),
        ({"training": {"eval_steps": 7, "eval_strategy": "steps"}}, FACTS),
        ({"training": {"provider": "unsloth"}}, FACTS),
        ({"training": {"machine": "local"}}, Facts(BARE)),
        ({"training": {"machine": "rtx-pro-6000"}}, Facts(CLOUD)),
        ({"export_config": {"destination": "hfhub", "hf_repo_id": "me/mine"}}, FACTS),
        ({"export_config": {"destination": "hfhub", "hf_repo_id": "me/mine"}, "hf_token": "fake"}, Facts(BARE)),
        ({"export_config": {"destination": "gcs", "hf_repo_id": "me/mine"}}, Facts(BARE)),
        ({"wandb_config": {"api_key": "fake"}}, Facts(BARE)),
        ({"wandb_config": {}}, FACTS),
        ({"notify": {"webhook_url": "https://example.com/x"}}, Facts(BARE)),
        ({"notify": {"webhook_url": "http://127.0.0.1:9/x"}}, FACTS),
    ],
)
def test_a_request_that_keeps_the_rules_is_accepted(fields: dict[str, Any], facts: Facts) -> None:
    assert problems(facts, **fields) == []


# Each request has one invalid field, whose default would break a rule together with the other fields.
STRATEGY = "training_config.eval_strategy"
MODALITY = "modality"


@pytest.mark.parametrize(
    ("where", "fields", "facts"),
    [
        ("processed_dataset_id", {"processed_dataset_id": "a/b"}, NO_DATASET),
        ("processed_dataset_id", {"processed_dataset_id": "a/b", "training": {"method": "RL"}}, FACTS),
        (MODALITY, {"modality": "smell", "training": {"train_vision_tower": True}}, FACTS),
        (MODALITY, {"modality": "smell", "training": {"packing": True, "provider": "unsloth"}}, FACTS),
        (MODALITY, {"modality": "smell", "training": {"batch_size": 64}}, Facts(CLOUD, size=LARGE)),
        (
            "training_config.method",
            {"training": {"method": "lora", "base_model_id": "google/gemma-4-26B-A4B-it", "lora_dropout": 0.1}},
            FACTS,
        ),
        ("training_config.method", {"training": {"method": "rl", "rl_config": GRPO}}, FACTS),
        ("training_config.early_stopping_patience", {"training": {"early_stopping_patience": 0}}, FACTS),
        (
            "training_config.early_stopping_patience",
            {"training": {"early_stopping_patience": 0, "early_stopping_threshold": 0.5}},
            FACTS,
        ),
        (STRATEGY, {"training": {"eval_strategy": "often", "early_stopping_patience": 2}}, FACTS),
        (STRATEGY, {"training": {"eval_strategy": "often", "load_best_model_at_end": True}}, FACTS),
        (STRATEGY, {"training": {"eval_strategy": "often", "eval_steps": 7}}, FACTS),
        ("training_config.max_steps", {"training": {"max_steps": 0, "warmup_ratio": 1.0}}, FACTS),
        ("training_config.batch_size", {"training": {"batch_size": 0, "machine": "l4"}}, FACTS),
        ("training_config.batch_size", {"training": {"batch_size": 0, "method": "Full"}}, Facts(CLOUD, size=LARGE)),
        (
            "training_config.batch_size",
            {"training": {"batch_size": 0, "method": "QLoRA"}, "export_config": {"format": "merged"}},
            Facts(CLOUD, size=LARGE),
        ),
        (
            "export_config.quantization",
            {"training": {"method": "QLoRA"}, "export_config": {"format": "merged", "quantization": "q9"}},
            Facts(CLOUD, size=LARGE),
        ),
        (
            "training_config.rl_config.algorithm",
            {"training": {"method": "RL", "rl_config": {"algorithm": "ppo"}, "evaluation_metrics": ["loss"]}},
            FACTS,
        ),
        (
            "training_config.batch_size",
            {"training": grpo() | {"batch_size": 0, "gradient_accumulation_steps": 3}},
            FACTS,
        ),
        (
            "training_config.gradient_accumulation_steps",
            {"training": grpo() | {"batch_size": 3, "gradient_accumulation_steps": 0}},
            FACTS,
        ),
        (
            "training_config.rl_config.num_generations",
            {"training": grpo(num_generations=1) | {"batch_size": 3}},
            FACTS,
        ),
        (
            "training_config.max_seq_length",
            {"training": grpo(max_completion_length=4000) | {"max_seq_length": 1}},
            FACTS,
        ),
        (
            "training_config.rl_config.temperature",
            {"training": grpo(max_completion_length=4000, temperature=0)},
            FACTS,
        ),
        (
            "training_config.rl_config.beta",
            {"training": {"method": "RL", "rl_config": {"algorithm": "dpo", "loss_type": "exo_pair", "beta": 0}}},
            FACTS,
        ),
        ("export_config.format", {"export_config": {"format": "zip", "quantization": "q8_0"}}, FACTS),
        ("export_config.hf_repo_id", {"export_config": {"destination": "hfhub", "hf_repo_id": 7}}, FACTS),
        (
            "hf_token",
            {"export_config": {"destination": "hfhub", "hf_repo_id": "me/mine"}, "hf_token": 7},
            Facts(BARE),
        ),
        ("wandb_config.api_key", {"wandb_config": {"api_key": 7}}, Facts(BARE)),
    ],
)
def test_no_rule_is_checked_with_the_default_of_an_invalid_field(
    where: str, fields: dict[str, Any], facts: Facts
) -> None:
    assert [place for place, _ in problems(facts, **fields)] == [where]


@pytest.mark.parametrize(
    ("part", "fields", "where"),
    [
        ("training_config", {"packing": True, "provider": "unsloth"}, "packing"),
        ("training_config", {"early_stopping_patience": 2}, "early_stopping_patience"),
        ("training_config", {"load_best_model_at_end": True}, "load_best_model_at_end"),
        ("training_config", {"eval_steps": 7}, "eval_steps"),
        ("training_config", {"evaluation_metrics": ["loss", "loss"]}, "evaluation_metrics"),
        ("training_config", {"warmup_ratio": 1.0}, "warmup_ratio"),
        ("training_config", {"lr_scheduler_type": "polynomial", "learning_rate": 1e-8}, "learning_rate"),
        ("training_config", {"base_model_id": "a/b/c"}, "base_model_id"),
        ("training_config", {"train_vision_tower": True}, "train_vision_tower"),
        ("training_config", {"method": "RL"}, "rl_config"),
        ("training_config", grpo() | {"packing": True}, "packing"),
        ("training_config", grpo() | {"lora_dropout": 0.1}, "lora_dropout"),
        ("training_config", grpo() | {"batch_size": 3}, "rl_config.num_generations"),
        ("training_config", grpo() | {"max_seq_length": 256}, "rl_config.max_completion_length"),
        ("training_config", grpo(rewards=[]), "rl_config.rewards"),
        (
            "training_config",
            {"method": "RL", "rl_config": {"algorithm": "dpo", "label_smoothing": 0.1}},
            "rl_config.label_smoothing",
        ),
        ("export_config", {"quantization": "q4"}, "quantization"),
        ("export_config", {"destination": "hfhub"}, "hf_repo_id"),
    ],
)
def test_a_rule_is_checked_beside_an_invalid_field_that_it_is_not_about(
    part: str, fields: dict[str, Any], where: str
) -> None:
    body = request()
    body[part] = body.get(part, {}) | fields | {"nothing_known": 1}
    places = [".".join(map(str, problem.loc)) for problem in checked(body).problems]
    assert sorted(places) == sorted([f"{part}.nothing_known", f"{part}.{where}"])


@pytest.mark.parametrize(
    ("config", "refusal"),
    [
        ({"model_type": "gemma3n", "vision_config": {}}, "vision_tower_frozen"),
        ({"model_type": "gemma4", "vision_config": {}}, None),
        ({"model_type": "gemma4_unified", "vision_config": {}}, None),
        ({"model_type": "gemma3", "vision_config": {}}, None),
        ({"model_type": "llama"}, None),
    ],
)
def test_whether_a_tower_can_be_trained_depends_on_the_config_of_the_model(
    config: dict[str, Any], refusal: str | None
) -> None:
    """Use a name that says nothing; another rule reports the model llama."""
    facts = replace(FACTS, base_model=ModelFiles(config))
    training = {"base_model_id": "/srv/model", "train_vision_tower": True}
    refusals = dict(problems(facts, modality="vision", training=training))
    assert refusals.get("training_config.train_vision_tower") == refusal


@pytest.mark.parametrize(
    ("config", "refusal"),
    [
        ({"model_type": "gemma4", "audio_config": {}}, None),
        ({"model_type": "gemma4_unified", "audio_config": {}}, None),
        ({"model_type": "gemma4", "audio_config": None}, "model_without_audio"),
        ({"model_type": "gemma4_text"}, "model_without_audio"),
        ({"model_type": "gemma3n", "audio_config": {}}, None),
        ({"model_type": "gemma3n_text"}, "model_without_audio"),
        ({"model_type": "gemma3", "vision_config": {}}, "model_without_audio"),
    ],
)
def test_whether_a_model_hears_depends_on_its_config(config: dict[str, Any], refusal: str | None) -> None:
    facts = replace(FACTS, base_model=ModelFiles(config))
    refusals = dict(problems(facts, modality="audio", training={"base_model_id": "/srv/model"}))
    assert refusals.get("modality") == refusal


MODELS_OF_FAMILIES = (
    "gemma-2b-it",
    "gemma-2-2b-it",
    "gemma-3-4b-it",
    "gemma-3n-E2B-it",
    "gemma-4-E2B-it",
    "gemma-4-12B-it",
    "gemma-4-26B-A4B-it",
    "gemma-4-31B-it",
)


@pytest.mark.parametrize("may_have_gpu", [False, True])
@pytest.mark.parametrize("model", MODELS_OF_FAMILIES)
def test_unsloth_takes_text_of_every_family_without_a_gpu_and_more_with_one(model: str, may_have_gpu: bool) -> None:
    facts = replace(FACTS, deployment=replace(FACTS.deployment, may_have_gpu=may_have_gpu))

    def refusals(modality: str = "text", **training: Any) -> set[str]:
        training |= {"base_model_id": f"google/{model}", "provider": "unsloth"}
        codes = {code for _, code in problems(facts, modality=modality, training=training)}
        return codes - {"model_without_vision", "model_without_audio", "needs_larger_machine"}

    for training in (
        {"method": "LoRA"},
        {"method": "Full"},
        grpo(),
        {"method": "RL", "rl_config": {"algorithm": "dpo"}},
    ):
        assert refusals(**training) == set()
    assert refusals(method="QLoRA") == (set() if may_have_gpu else {"unsloth_needs_gpu"})
    assert refusals("vision") == (set() if may_have_gpu else {"unsloth_needs_gpu"})
    assert "audio_not_possible" in refusals("audio")


def test_an_export_again_is_checked_by_the_rules_about_its_own_fields_only() -> None:
    trained = checked(request(training={"provider": "unsloth", "machine": "local"})).require_valid().spec()
    document = '{"export_config": {"format": "adapter", "quantization": "q4", "destination": "hfhub"}}'
    completed = complete_export_request(read_export(document), trained)
    facts = Facts(CLOUD)  # a deployment that has lost both machine and library
    assert in_order(rules.check(completed, facts, about=ExportRequest).problems) == [
        ("export_config.hf_repo_id", "missing_field"),
        ("export_config.quantization", "quantization_not_in_format"),
        ("hf_token", "missing_field"),
    ]


@pytest.mark.parametrize(
    ("columns", "refusals"),
    [
        ({"messages": "conversation", "prompt": "question"}, []),
        ({"prompt": "q", "chosen": "good", "rejected": "bad", "label": None}, []),
        ({"mesages": "conversation"}, [("mesages", "unknown_field", "use messages")]),
        (
            {"prompt": "text", "completion": "other", "chosen": "text", "rejected": "other"},
            [
                ("chosen", "repeated_value", "give each field a column of its own"),
                ("rejected", "repeated_value", "give each field a column of its own"),
            ],
        ),
        ({"prompt": None, "completion": None}, []),
    ],
)
def test_columns_are_named_for_fields_of_formats_and_once_each(
    columns: dict[str, str | None], refusals: list[tuple[str, str, str]]
) -> None:
    reading = checked(request(dataset_columns=columns))
    reported = [(problem.loc[-1], problem.code, problem.hint) for problem in reading.problems]
    assert reported == refusals


def test_a_name_that_is_like_no_field_is_answered_with_all_of_them() -> None:
    (problem,) = checked(request(dataset_columns={"zzz": "a"})).problems
    for name in ("messages", "chosen", "image", "prompt"):
        assert name in str(problem.hint)


class PricesOfExports(Prices):
    """Prices of a deployment where only the machines of exports have one."""

    def usd_per_second(self, kind: str | None) -> float | None:
        """Return the price of a kind of machine."""
        return 0.001 if kind == "export" else None


def test_an_export_again_needs_the_price_of_its_own_machine_only() -> None:
    deployment = replace(FACTS.deployment, machines=("l4",), prices=PricesOfExports())
    cap: dict[str, Any] = {"max_cost_usd": 1}
    trains = checked(request(**cap), facts=replace(FACTS, deployment=deployment))
    assert [problem.code for problem in trains.problems] == ["price_unknown"]
    exports = checked(request(**cap), facts=replace(FACTS, deployment=deployment, dataset=None))
    assert exports.problems == ()
