"""Requests that are accepted, and the problems of those that are not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gemtune.errors import RequestRefused
from gemtune.jobs.sources import Source
from gemtune.request.exports import EXPORTS
from gemtune.request.facts import DatasetFiles
from gemtune.request.spec import ExportRequest, TrainRequest, request_hash
from gemtune.request.training_config import Provider, TrainingConfig
from tests.fakes import FACTS, checked, request

EXAMPLE = {
    "processed_dataset_id": "dataset_abc123",
    "job_name": "My Training Job",
    "hf_token": "hf_fakefakefake",
    "modality": "text",
    "training_config": {
        "method": "LoRA",
        "base_model_id": "google/gemma-2b",
        "learning_rate": 0.0001,
        "batch_size": 4,
        "epochs": 3,
        "gradient_accumulation_steps": 4,
        "provider": "huggingface",
        "eval_strategy": "no",
        "eval_steps": 50,
        "evaluation_metrics": ["accuracy", "perplexity"],
        "batch_eval_metrics": False,
    },
    "export_config": {
        "format": "adapter",
        "quantization": "none",
        "destination": "gcs",
        "hf_repo_id": "user/model-name",
    },
}


def codes(body: Any, source: Source = Source.HTTP) -> dict[str, str]:
    """Return location -> code of all problems with a body."""
    return {".".join(map(str, p.loc)): p.code for p in checked(body, source).problems}


def with_field(path: str, value: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(json.dumps(request()))
    *parents, last = path.split(".")
    inner = body
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    return body


def test_the_documented_example_is_accepted() -> None:
    parsed = checked(EXAMPLE).require_valid()
    assert parsed.training_config.learning_rate == 0.0001
    assert parsed.secrets() == {"hf_token": "hf_fakefakefake"}
    assert "hf_fake" not in parsed.spec().model_dump_json()


# Every value that the interface lists for a field of its example, with the other fields that it needs.
LISTED: dict[str, list[Any]] = {
    "modality": [
        "text",
        {"modality": "vision", "training_config": {"base_model_id": "google/gemma-3-4b-it"}},
        {"modality": "audio", "training_config": {"base_model_id": "google/gemma-4-E2B-it"}},
    ],
    "training_config.method": ["LoRA", "QLoRA", "Full", "RL"],
    "training_config.provider": ["unsloth", "huggingface"],
    "training_config.eval_strategy": ["no", "steps", "epoch"],
    "training_config.evaluation_metrics": [["loss"], ["accuracy"], ["perplexity"], ["loss", "accuracy", "perplexity"]],
    "training_config.batch_eval_metrics": [True, False],
    "export_config.destination": ["gcs", "hfhub"],
    "export_config.quantization": [
        {"export_config": {"format": name, "quantization": quantization}}
        for name, kind in EXPORTS.items()
        for quantization in (export.quantization for export in kind.exports)
    ],
    "wandb_config": [{"wandb_config": {"api_key": "wandb_fakefake", "project": "my-project"}}],
}


@pytest.mark.parametrize("columns", [{"prompt", "answer"}, {"prompt", "chosen", "rejected"}])
@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in LISTED.items() for value in values])
def test_every_listed_value_is_accepted_in_the_example(path: str, value: Any, columns: set[str]) -> None:
    body = json.loads(json.dumps(EXAMPLE))
    changes = value if isinstance(value, dict) else nested(path, value)
    for part, change in changes.items():
        body[part] = body.get(part, {}) | change if isinstance(change, dict) else change
    facts = replace(FACTS, dataset=DatasetFiles("the dataset's folder", exists=True, columns=frozenset(columns)))
    assert checked(body, facts=facts).problems == ()


def nested(path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return {first: nested(rest, value) if rest else value}


@pytest.mark.parametrize("field", ["format", "quantization"])
def test_absent_fields_have_their_defaults(field: str) -> None:
    parsed = checked(request()).require_valid()
    assert parsed.spec().quantization == "none"
    assert parsed.export_config.format == "adapter"
    assert parsed.training_config.model_dump() | {"base_model_id": ""} == {
        "method": "LoRA",
        "base_model_id": "",
        "base_job_id": None,
        "learning_rate": 2e-4,
        "batch_size": 4,
        "epochs": 3,
        "gradient_accumulation_steps": 4,
        "provider": "huggingface",
        "eval_strategy": "no",
        "eval_steps": 50,
        "evaluation_metrics": ["accuracy", "perplexity"],
        "batch_eval_metrics": False,
        "lora_rank": 16,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "target_modules": None,
        "use_rslora": False,
        "use_dora": False,
        "new_tokens": None,
        "train_embeddings": False,
        "max_steps": None,
        "max_seq_length": None,
        "too_long": "drop",
        "train_on": "all_assistant_turns",
        "same_role": "refuse",
        "packing": False,
        "lr_scheduler_type": "linear",
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "save_steps": None,
        "save_minutes": 10,
        "logging_steps": 1,
        "rl_config": None,
        "seed": 42,
        "machine": None,
        "early_stopping_patience": None,
        "early_stopping_threshold": 0.0,
        "load_best_model_at_end": None,
        "train_vision_tower": False,
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training_config.learning_rate", 0),
        ("training_config.learning_rate", float("nan")),
        ("training_config.learning_rate", float("inf")),
        ("training_config.learning_rate", "2e-4"),
        ("training_config.batch_size", 0),
        ("training_config.batch_size", 2.5),
        ("training_config.batch_size", "4"),
        ("training_config.batch_size", True),
        ("training_config.epochs", -1),
        ("training_config.gradient_accumulation_steps", 10**9),
        ("training_config.lora_dropout", 1),
        ("training_config.lora_rank", 0),
        ("training_config.max_steps", 0),
        ("training_config.max_seq_length", 1),
        ("training_config.warmup_ratio", 1.1),
        ("training_config.weight_decay", -0.1),
        ("training_config.seed", -1),
        ("training_config.eval_steps", 0),
        ("training_config.evaluation_metrics", ["bleu"]),
        ("training_config.evaluation_metrics", ["accuracy", "accuracy"]),
        ("training_config.method", "lora"),
        ("training_config.base_model_id", "../etc/passwd"),
        ("training_config.base_model_id", "gs://"),
        ("training_config.base_model_id", "a/b/c"),
        ("training_config.base_model_id", "a/b\n"),
        ("processed_dataset_id", "../x"),
        ("processed_dataset_id", ""),
        ("processed_dataset_id", "a/b"),
        ("processed_dataset_id", "a\n"),
        ("processed_dataset_id", "a\u0000b"),
        ("processed_dataset_id", "ünïcode"),
        ("job_name", ""),
        ("job_name", "x" * 201),
        ("job_name", "a\x1b[31m"),
        ("export_config.quantization", "q8_0"),
        ("export_config", None),
        ("unheard_of", 1),
        ("training_config.learning_rat", 1),
    ],
)
def test_an_invalid_value_is_refused_at_its_field(path: str, value: Any) -> None:
    problem_codes = codes(with_field(path, value))
    assert any(where == path or where.startswith(f"{path}.") for where in problem_codes), problem_codes
    assert len(problem_codes) == 1


@pytest.mark.parametrize(
    ("training", "code"),
    [
        ({"warmup_ratio": 0.03, "max_steps": 1}, "warmup_without_end"),  # one train_step, whose learning rate is 0
        ({"warmup_ratio": 0.0, "max_steps": 1}, None),
        ({"warmup_ratio": 0.03, "max_steps": 2}, None),
        ({"warmup_ratio": 0.6, "max_steps": 2}, "warmup_without_end"),
        ({"warmup_ratio": 0.99, "max_steps": 99}, "warmup_without_end"),
        ({"warmup_ratio": 0.99, "max_steps": 100}, None),
        ({"warmup_ratio": 1.0}, "warmup_without_end"),
        ({"warmup_ratio": 0.99}, None),  # the number of train_steps is known to prepare only
    ],
)
def test_a_warmup_ends_before_the_training_does(training: dict[str, Any], code: str | None) -> None:
    problem_codes = codes(request(training=training))
    assert problem_codes == ({} if code is None else {"training_config.warmup_ratio": code})


@pytest.mark.parametrize(("rate", "code"), [(1e-7, "learning_rate_too_low"), (2e-7, None)])
def test_a_polynomial_schedule_needs_a_rate_above_its_end(rate: float, code: str | None) -> None:
    problem_codes = codes(request(training={"lr_scheduler_type": "polynomial", "learning_rate": rate}))
    assert problem_codes.get("training_config.learning_rate") == code
    assert codes(request(training={"lr_scheduler_type": "linear", "learning_rate": rate})) == {}


@pytest.mark.parametrize(
    ("project", "code"),
    [("boats", None), ("team/boats", None), ("a/b/c", "bad_form"), ("what?", "bad_form"), ("/", "bad_form")],
)
def test_a_project_name_that_wandb_does_not_allow_is_refused(project: str, code: str | None) -> None:
    assert codes(with_field("wandb_config.project", project)).get("wandb_config.project") == code


@pytest.mark.parametrize(
    ("training", "code", "keeps"),
    [
        ({}, None, False),
        ({"early_stopping_patience": 2, "eval_strategy": "epoch"}, None, True),
        ({"early_stopping_patience": 2, "eval_strategy": "epoch", "load_best_model_at_end": False}, None, False),
        ({"load_best_model_at_end": True, "eval_strategy": "steps"}, None, True),
        ({"load_best_model_at_end": True}, "needs_evaluation", True),
        ({"load_best_model_at_end": False}, None, False),
    ],
)
def test_the_best_weights_are_kept_on_request_and_with_early_stopping(
    training: dict[str, Any], code: str | None, keeps: bool
) -> None:
    body = request()
    body["training_config"] |= {"eval_strategy": "no"} | training
    reading = checked(body)
    assert {problem.loc[-1]: problem.code for problem in reading.problems} == (
        {} if code is None else {"load_best_model_at_end": code}
    )
    assert TrainingConfig(**body["training_config"]).keeps_best == keeps


@pytest.mark.parametrize(
    ("modality", "path", "value", "where", "code"),
    [
        ("vision", "training_config.packing", True, "training_config.packing", "packing_not_possible"),
        ("vision", "training_config.base_model_id", "google/gemma-3-1b-it", "modality", "model_without_vision"),
        ("text", "training_config.train_vision_tower", True, "training_config.train_vision_tower", "field_without_use"),
    ],
)
def test_settings_that_do_not_go_with_pictures_are_refused(
    modality: str, path: str, value: Any, where: str, code: str
) -> None:
    body = with_field("modality", modality)
    body["training_config"]["base_model_id"] = "google/gemma-3-4b-it"
    part, _, name = path.partition(".")
    body.setdefault(part, {})[name] = value
    problems = checked(body).problems
    assert (where, code) in {(".".join(map(str, problem.loc)), problem.code) for problem in problems}


HEARS = "google/gemma-4-E4B-it"


@pytest.mark.parametrize(
    ("training", "where", "code"),
    [
        ({"base_model_id": HEARS, "packing": True}, "training_config.packing", "packing_not_possible"),
        (
            {"base_model_id": HEARS, "train_vision_tower": True},
            "training_config.train_vision_tower",
            "field_without_use",
        ),
        ({"base_model_id": HEARS, "method": "RL", "rl_config": {"algorithm": "dpo"}}, "modality", "audio_not_possible"),
        ({"base_model_id": HEARS, "provider": "unsloth"}, "modality", "audio_not_possible"),
        ({"base_model_id": "google/gemma-3-4b-it"}, "modality", "model_without_audio"),
        ({"base_model_id": "google/gemma-4-31B-it"}, "modality", "model_without_audio"),
        ({"base_model_id": "google/gemma-4-26B-A4B-it"}, "modality", "model_without_audio"),
    ],
)
def test_settings_that_do_not_go_with_audio_are_refused(training: dict[str, Any], where: str, code: str) -> None:
    body = with_field("modality", "audio")
    body["training_config"] = training
    assert (where, code) in {(".".join(map(str, each.loc)), each.code) for each in checked(body).problems}


@pytest.mark.parametrize("base_model", ["google/gemma-4-E2B", HEARS, "google/gemma-4-12B-it"])
@pytest.mark.parametrize("method", ["LoRA", "QLoRA", "Full"])
def test_an_audio_request_is_accepted(method: str, base_model: str) -> None:
    body = with_field("modality", "audio")
    body["training_config"] |= {"base_model_id": base_model, "method": method}
    for name in EXPORTS:
        assert codes(body | {"export_config": {"format": name}}) == {}


@pytest.mark.parametrize("train_vision_tower", [True, False])
@pytest.mark.parametrize("provider", get_args(Provider))
@pytest.mark.parametrize("method", ["LoRA", "QLoRA", "Full"])
def test_a_vision_request_is_accepted(method: str, provider: str, train_vision_tower: bool) -> None:
    body = with_field("modality", "vision")
    body["training_config"] |= {
        "base_model_id": "google/gemma-3-4b-it",
        "train_vision_tower": train_vision_tower,
        "provider": provider,
        "method": method,
    }
    for name in EXPORTS:
        assert codes(body | {"export_config": {"format": name}}) == {}


def test_all_problems_of_a_request_are_reported_at_once() -> None:
    body = {
        "hf_token": 5,
        "colour": "red",
        "training_config": {"learning_rate": 7, "metod": "LoRA"},
        "export_config": {"format": "merged", "quantization": "q8_0", "destination": "hfhub"},
    }
    assert codes(body) == {
        "processed_dataset_id": "missing_field",
        "training_config.base_model_id": "missing_field",
        "training_config.learning_rate": "less_than_equal",
        "training_config.metod": "unknown_field",
        "hf_token": "string_type",
        "colour": "unknown_field",
        "export_config.quantization": "quantization_not_in_format",
        "export_config.hf_repo_id": "missing_field",
    }


def test_a_wrong_pair_of_format_and_quantization_lists_the_right_ones() -> None:
    problems = checked(with_field("export_config.quantization", "q4_k_m")).problems
    assert problems[0].hint == "use one of none"


def test_the_hint_for_a_misspelled_field_names_the_right_one() -> None:
    (problem,) = checked(with_field("training_config.epoch", 1)).problems
    assert problem.hint == "did you mean 'epochs'?"


@pytest.mark.parametrize(
    ("misplaced", "hint"),
    [
        ({"base_job_id": "training_x"}, "it belongs to training_config"),
        ({"format": "gguf"}, "it belongs to export_config"),
        (
            {"training_config": {"base_model_id": "google/gemma-3-4b-it", "modality": "text"}},
            "it belongs to the request",
        ),
    ],
)
def test_a_field_in_the_wrong_object_has_a_hint_where_it_belongs(misplaced: dict[str, Any], hint: str) -> None:
    (problem,) = checked(request() | misplaced).problems
    assert (problem.code, problem.hint) == ("unknown_field", hint)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        '"x"',
        "[" * 100_000,
        '{"a":' * 5000,
        "\x00",
        "{'a':1}",
        '{"a":' * 800 + "1" + "}" * 800,
    ],
)
def test_anything_but_a_json_object_is_refused(body: str) -> None:
    with pytest.raises(RequestRefused):
        checked(body).require_valid()


@pytest.mark.parametrize("name", ["function-x", "", "a.b", "0", "é", "job_name\n", "__class__"])
def test_an_unknown_field_is_named_whatever_it_is_called(name: str) -> None:
    (problem,) = checked(request() | {name: 1}).problems
    assert (problem.loc, problem.code) == ((name,), "unknown_field")


@pytest.mark.parametrize("form", ['{{"{}": 1}}', '{{"job_name": "{}"}}', '{{"training_config": {{"x": ["{}"]}}}}'])
@pytest.mark.parametrize("text", ["\\ud800", "\\ud800hf_fakefakefake", "\\udc00\\ud800"])
def test_half_a_surrogate_pair_is_refused_with_a_printable_problem(form: str, text: str) -> None:
    (problem,) = checked(form.format(text)).problems
    assert problem.code == "not_text"
    repr(problem).encode()


def test_a_character_beyond_the_basic_plane_is_accepted() -> None:
    assert codes(json.dumps(request(job_name="\U0001f600"))) == {}


def test_a_validation_error_repeats_no_value_of_the_request() -> None:
    with pytest.raises(ValidationError) as caught:
        TrainRequest.model_validate_json(json.dumps(request(hf_token=["a token of any form"])))
    assert "any form" not in str(caught.value)


@pytest.mark.parametrize("path", ["hf_token", "wandb_config.api_key"])
def test_over_pubsub_a_literal_token_is_refused_and_a_reference_accepted(path: str) -> None:
    assert codes(with_field(path, "hf_fakefakefake"), Source.PUBSUB)[path] == "secret_in_the_open"
    assert path not in codes(with_field(path, "secret:gemtune-user-mine"), Source.PUBSUB)


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize(
    "name", ["gemtune-job-training_x-hf_token-0", "../gemtune-user-x", "gemtune-user-a/b", "gemtune-user-a\n", ""]
)
def test_only_a_users_own_secrets_can_be_referred_to(name: str, source: Source) -> None:
    problem_codes = codes(with_field("hf_token", f"secret:{name}"), source)
    assert problem_codes == {"hf_token": "bad_secret_reference"}


TOKEN = "hf_" + "fAkE" * 8


@given(
    st.sampled_from(
        [
            "hf_token",
            "job_name",
            "processed_dataset_id",
            "modality",
            "training_config.base_model_id",
            "nothing.known",
            "training_config.method",
            "export_config.hf_repo_id",
            "wandb_config.project",
            "notify.webhook_url",
        ]
    ),
    st.sampled_from(["{}", "x {}", "https://user:{}@example.com/", " {} "]),
    st.sampled_from(Source),
)
def test_no_problem_repeats_a_token_from_any_field(path: str, form: str, source: Source) -> None:
    body = with_field(path, form.format(TOKEN))
    reading = checked(body, source)
    assert TOKEN not in repr(reading.problems)
    if path != "hf_token":
        assert reading.problems
    as_key = checked(with_field(TOKEN, 1), source)
    assert TOKEN not in repr(as_key.problems)


def test_the_hash_of_a_request_ignores_secrets_and_order() -> None:
    def hashed(body: dict[str, Any]) -> str:
        return request_hash(checked(body).require_valid().spec())

    same = dict(reversed(list(request(hf_token="hf_fakefakefakeA").items())))
    assert hashed(request(hf_token="hf_fakefakefakeB")) == hashed(same)
    assert hashed(request()) == hashed(request(modality="text"))
    assert hashed(request()) != hashed(request(job_name="another"))


@pytest.mark.parametrize(
    "name", ["me/a--b", "me/a..b", "me/a.git", "me/a-", "me/a.", "me-/a", "a", "a/b/c", "/a", "ä/b"]
)
def test_a_repository_name_that_the_hub_does_not_allow_is_refused(name: str) -> None:
    body = request(export_config={"destination": "hfhub", "hf_repo_id": name})
    assert codes(body) == {"export_config.hf_repo_id": "bad_form"}
    assert codes(request(export_config={"destination": "hfhub", "hf_repo_id": "me/a-b_c.d"})) == {}


def test_a_request_that_is_printed_shows_no_token() -> None:
    body = request() | {"hf_token": "hf_fakefakefake", "wandb_config": {"api_key": "fakefakekey", "project": "p"}}
    shown = repr(TrainRequest.model_validate(body))
    assert "project='p'" in shown
    assert "fakefake" not in shown
    again = {"hf_token": "hf_fakefakefake", "export_config": {"format": "merged"}}
    assert "fakefake" not in repr(ExportRequest.model_validate(again))


@pytest.mark.parametrize(
    ("base_model_id", "training", "is_refused"),
    [
        ("google/gemma-4-26B-A4B-it", {"lora_dropout": 0.1}, True),
        ("google/gemma-4-26B-A4B-it", {"lora_dropout": 0.1, "method": "QLoRA"}, True),
        ("google/gemma-4-26B-A4B-it", {"lora_dropout": 0.05}, False),  # the default
        ("google/gemma-4-26B-A4B-it", {"lora_dropout": 0}, False),
        ("google/gemma-4-31B-it", {"lora_dropout": 0.1}, False),
        ("google/gemma-3-4b-it", {"lora_dropout": 0.1}, False),
    ],
)
def test_dropout_is_refused_where_adapters_are_on_experts(
    base_model_id: str, training: dict[str, Any], is_refused: bool
) -> None:
    problems = codes(request(training={"base_model_id": base_model_id, **training}))
    assert problems == ({"training_config.lora_dropout": "field_without_use"} if is_refused else {})


@pytest.mark.parametrize(
    "base_model_id", ["gemma", "a/b/c", "gs://", "./models/gemma", "https://huggingface.co/google/a"]
)
def test_a_base_model_id_of_no_known_form_is_refused(base_model_id: str) -> None:
    assert codes(request(training={"base_model_id": base_model_id})) == {
        "training_config.base_model_id": "bad_base_model"
    }
