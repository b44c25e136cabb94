"""The generations of Gemma: names on the Hub, configurations and consistency."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from gemtune import families
from gemtune.families import FAMILIES, unsupported
from gemtune.families.generation import Family
from gemtune.llama_cpp import problem_of_config, problem_of_repository

TEMPLATES = Path(__file__).parents[3] / "trainer" / "conversation"


@pytest.mark.parametrize(
    ("repository", "family", "billions"),
    [
        ("google/gemma-2b", "Gemma 1", 2.5),
        ("google/gemma-7b-it", "Gemma 1", 8.5),
        ("google/gemma-1.1-2b-it", "Gemma 1", 2.5),
        ("google/codegemma-7b-it", "Gemma 1", 8.5),
        ("google/codegemma-1.1-2b", "Gemma 1", 2.5),
        ("google/gemma-2-2b-it", "Gemma 2", 2.6),
        ("google/gemma-2-27b", "Gemma 2", 27.2),
        ("google/shieldgemma-9b", "Gemma 2", 9.2),
        ("google/txgemma-9b-chat", "Gemma 2", 9.2),
        ("google/datagemma-rag-27b-it", "Gemma 2", 27.2),
        ("google/gemma-3-270m-it", "Gemma 3", 0.3),
        ("google/gemma-3-1b-pt", "Gemma 3", 1.0),
        ("google/gemma-3-4b-it-qat-int4-unquantized", "Gemma 3", 4.3),
        ("google/medgemma-4b-it", "Gemma 3", 4.3),
        ("google/medgemma-1.5-4b-it", "Gemma 3", 4.3),
        ("google/medgemma-27b-text-it", "Gemma 3", 27.4),
        ("google/translategemma-12b-it", "Gemma 3", 12.2),
        ("google/functiongemma-270m-it", "Gemma 3", 0.3),
        ("unsloth/gemma-3-270m-it", "Gemma 3", 0.3),
        ("google/gemma-3n-E2B-it", "Gemma 3n", 5.4),
        ("google/gemma-3n-E4B", "Gemma 3n", 7.8),
        ("google/gemma-4-E2B-it", "Gemma 4", 5.1),
        ("google/gemma-4-E4B", "Gemma 4", 8.0),
        ("google/gemma-4-12B-it", "Gemma 4", 11.9),
        ("google/gemma-4-26B-A4B-it", "Gemma 4", 25.8),
        ("google/gemma-4-31B-it-qat-q4_0-unquantized", "Gemma 4", 31.3),
    ],
)
def test_a_published_name_gives_family_and_size(repository: str, family: str, billions: float) -> None:
    named_family, size = families.of_name(repository), families.size_by_name(repository)
    assert named_family is not None
    assert size is not None
    assert (named_family.name, round(size.parameters / 1e9, 1)) == (family, billions)
    assert families.problem_of_name(repository) is None


@pytest.mark.parametrize(
    "repository",
    [
        "google/paligemma2-3b-pt-224",
        "google/recurrentgemma-9b-it",
        "google/t5gemma-2b-2b-prefixlm",
        "google/t5gemma-2-270m",
        "google/embeddinggemma-300m",
        "google/diffusiongemma-2b",
        "google/vaultgemma-1b",
        "google/shieldgemma-2-4b-it",
        "google/gemma-4-31B-it-assistant",
        "google/gemma-4-E2B-assistant",
        "google/gemma-4-E2B-it-qat-q4_0-unquantized-assistant",
        "google/gemma-3-4b-it-qat-q4_0-gguf",
        "google/gemma-3n-E4B-it-litert-lm",
        "google/gemma-1.1-2b-it-tflite",
        "google/gemma-scope-2b-pt-res",
        "google/gemma-scope-2-4b-it",
        "onnx-community/gemma-3-270m-it-ONNX",
        "unsloth/gemma-3-4b-it-unsloth-bnb-4bit",
        "mlx-community/gemma-4-e4b-it-8bit",
        "mlx-community/gemma-3-4b-it-qat-3bit",
        "mlx-community/gemma-4-e2b-it-mxfp4",
        "gaunernst/gemma-3-4b-it-int4-awq",
        "gaunernst/gemma-3-4b-it-qat-int4",
        "turboderp/gemma-3-4b-it-exl3",
        "RedHatAI/gemma-3-4b-it-quantized.w8a8",
        "RedHatAI/gemma-3-12b-it-FP8-dynamic",
        "RedHatAI/gemma-3-4b-it-quantized.w4a16",
        "nvidia/Gemma-4-31B-IT-NVFP4",
        "google/gemma-2b-it-keras",
        "google/gemma-7b-flax",
        "google/gemma-2-2b-jax",
        "google/gemma-2b-it-pytorch",
        "google/gemma-2-2b-it-sfp-cpp",
        "me/gemma-3-4b-it-mlx",
        "google/dolphingemma",
        "litert-community/Gemma3-1B-IT",
        "onnx-community/gemma-3-1b-it",
        "google/gemma-99-9b-it",
        "google/gemma-3.5-4b-it",
        "google/gemma-10-2b",
    ],
)
def test_a_model_that_is_not_supported_is_refused_by_its_name(repository: str) -> None:
    problem = families.problem_of_name(repository)
    assert problem is not None
    assert problem.code == "model_not_supported"
    assert problem.hint is not None
    assert all(family.name in problem.hint for family in FAMILIES)


def test_an_unknown_generation_is_named_as_the_model_names_it() -> None:
    problem = families.problem_of_name("google/gemma-4n-E4B-it")
    assert problem is not None
    assert problem.msg.startswith("Gemma 4n is a generation")


def test_a_model_trained_to_be_quantized_is_not_refused() -> None:
    for kind in ("q4_0", "int4"):
        assert families.problem_of_name(f"google/gemma-3-4b-it-qat-{kind}-unquantized") is None


def test_a_model_that_somebody_called_an_assistant_is_not_refused() -> None:
    assert families.problem_of_name("me/gemma-3-4b-it-support-assistant") is None


@pytest.mark.parametrize("name", ["gemma-3-4b-keras-tutor", "gemma-pytorch-helper", "mlx-gemma-3-4b", "code-jax"])
def test_a_model_that_is_about_another_program_is_not_refused(name: str) -> None:
    assert families.problem_of_name(f"me/{name}") is None


def test_every_gemma_of_transformers_is_supported_or_refused_with_its_reason() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    parts = ("_vision", "_audio", "_text", "_module", "_decoder", "_encoder")
    answered = {*unsupported.BY_MODEL_TYPE, *(kind for family in FAMILIES for kind in family.model_types)}
    whole = {kind for kind in CONFIG_MAPPING_NAMES if "gemma" in kind and not kind.endswith(parts)}
    assert whole - answered == set()


@pytest.mark.parametrize("repository", ["me/my-gemma-4b", "me/gemma-9b-chat", "me/assistants-of-mine", "me/llama-3-8b"])
def test_a_name_of_no_known_model_is_not_refused(repository: str) -> None:
    assert families.problem_of_name(repository) is None
    assert families.size_by_name(repository) is None


@pytest.mark.parametrize(
    ("model_type", "code"),
    [
        ("gemma", None),
        ("gemma3n", None),
        ("gemma4", None),
        ("gemma4_unified", None),
        ("gemma99", "model_not_supported"),
        ("gemma99_text", "model_not_supported"),
        *((kind, "model_not_supported") for kind in unsupported.BY_MODEL_TYPE),
        ("llama", "not_a_gemma"),
        (None, "not_a_gemma"),
        (7, "not_a_gemma"),
    ],
)
def test_a_configuration_is_trained_or_refused_by_its_model_type(model_type: object, code: str | None) -> None:
    problem = families.problem_of_config({"model_type": model_type, "text_config": {}})
    assert (problem and problem.code) == code


MIXTURE = {"enable_moe_block": True, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704}
# Fields of a config.json that make a model of a known type one that cannot be trained, with part of the reason. The
# first two are EmbeddingGemma's and a reward model's; the others are of bitsandbytes, compressed-tensors and MLX.
REFUSED_FIELDS: tuple[tuple[dict[str, object], str], ...] = (
    ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "see the tokens after them"),
    ({"model_type": "gemma2", "architectures": ["M", "Gemma2ForSequenceClassification"]}, "a Gemma2ForSequenceClass"),
    ({"model_type": "gemma4", "text_config": {"use_bidirectional_attention": "all"}}, "see the tokens after them"),
    ({"model_type": "gemma", "quantization_config": {"quant_method": "bitsandbytes"}}, "quantized (bitsandbytes)"),
    ({"model_type": "gemma3", "quantization_config": {"format": "pack-quantized"}}, "stored quantized"),
    ({"model_type": "gemma3", "text_config": {"quantization_config": {"quant_method": "fp8"}}}, "quantized (fp8)"),
    ({"model_type": "gemma3_text", "quantization": {"group_size": 64, "bits": 4}}, "stored quantized"),
    (
        {"model_type": "gemma4_text", **MIXTURE, "moe_intermediate_size": 17},
        "moe_intermediate_size is 17",
    ),
    ({"model_type": "gemma4", "text_config": {**MIXTURE, "hidden_size": 60}}, "hidden_size is 60"),
    (
        {"model_type": "gemma4", "text_config": {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 0}},
        "has no inputs per layer",
    ),
    ({"model_type": "gemma3", "text_config": {"final_logit_softcapping": 30.0}}, "does not cap the logits"),
    ({"model_type": "gemma4_text", "vocab_size": 262_208, "vocab_size_per_layer_input": 262_144}, "lack 64 of its"),
)


@pytest.mark.parametrize(("config", "reason"), REFUSED_FIELDS)
def test_a_configuration_is_refused_by_what_it_says_besides_its_model_type(
    config: dict[str, object], reason: str
) -> None:
    problem = families.problem_of_config(config)
    assert problem is not None
    assert problem.code == "model_not_supported"
    assert reason in problem.msg


@pytest.mark.parametrize(
    "field",
    [
        {"use_bidirectional_attention": "vision"},
        {"use_bidirectional_attention": False},
        {"quantization_config": None},
        {**MIXTURE, "hidden_size": 2816},
        {"enable_moe_block": False, "moe_intermediate_size": 17},
        {"num_kv_shared_layers": 20, "hidden_size_per_layer_input": 256},
        {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0},
        {"architectures": ["Gemma4ForConditionalGeneration"]},
        {"architectures": ["Gemma4TextModel"]},
        {"architectures": None},
    ],
)
def test_a_configuration_of_published_models_is_not_refused(field: dict[str, object]) -> None:
    assert families.problem_of_config({"model_type": "gemma4", "text_config": dict(field)} | field) is None


def test_the_refusal_of_an_unknown_generation_says_that_it_is_one() -> None:
    problem = families.problem_of_config({"model_type": "gemma99_text"})
    assert problem is not None
    assert "gemma99_text is a generation of Gemma that this version does not know" in problem.msg


def test_families_share_no_name_and_no_model_type() -> None:
    for one, other in combinations(FAMILIES, 2):
        assert not set(one.model_types) & set(other.model_types)
        assert not set(one.names) & set(other.names)
        assert not set(one.sizes) & set(other.sizes)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_entries_of_a_family_are_consistent(family: Family) -> None:
    assert (TEMPLATES / family.turns.template).is_file()
    assert family.turns.start in (TEMPLATES / family.turns.template).read_text()
    assert family.turns.end in (TEMPLATES / family.turns.template).read_text()
    assert all(families.of_name(f"google/{part}-it") is family for part in family.sizes)
    without_media = (*family.names_without_pictures, *family.names_without_audio)
    assert all(part.startswith(family.names) for part in without_media)
    hears = any(kind.why_no_audio is None for kind in family.model_types.values())
    assert bool(family.audio_modules) >= hears
    assert all((kind.why_no_audio is None) is bool(kind.feature_extractor) for kind in family.model_types.values())
    sees = any(kind.why_no_pictures is None for kind in family.model_types.values())
    assert bool(family.multimodal_modules) >= sees
    assert (family.pictures is not None) is sees
    assert not set(family.model_types) & set(unsupported.BY_MODEL_TYPE)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_takes_one_file_of_at_most_60_lines(family: Family) -> None:
    file = Path(families.__file__).parent / f"{family.name.lower().replace(' ', '')}.py"
    assert len(file.read_text().splitlines()) <= 60


def test_gguf_is_refused_with_the_reason_where_llama_cpp_differs() -> None:
    problem = problem_of_config({"model_type": "gemma3n"})
    assert problem is not None
    assert "were not compared with transformers" in problem.msg
    assert "Gemma 3n" not in str(problem.hint)
    assert problem_of_config({"model_type": "gemma3n_text"}) is None
    by_name = problem_of_repository("google/gemma-3n-E4B-it")
    assert by_name is not None
    assert by_name.msg == problem.msg
    assert problem_of_config({"model_type": "gemma4"}) is problem_of_repository("google/gemma-4-E4B-it") is None


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3", "gemma3n_text", "gemma4"])
def test_a_number_of_layers_of_no_model_keeps_nobody_busy(model_type: str) -> None:
    problem = problem_of_config({"model_type": model_type, "num_hidden_layers": 10**15, "rope_theta": "x" * 10**6})
    assert problem is None or len(problem.msg) < 500


_SLIDING, _GLOBAL = "sliding_attention", "full_attention"


@pytest.mark.parametrize(
    ("model_type", "fields", "reason"),
    [
        ("gemma", {"attention_bias": True}, "has no biases"),
        ("gemma3", {"attention_bias": True}, "has no biases"),
        ("gemma", {"hidden_act": "silu"}, "not silu"),
        ("gemma4", {"hidden_activation": "silu"}, "not silu"),
        ("gemma", {"tie_word_embeddings": False}, "as its output head"),
        ("gemma2", {"tie_word_embeddings": False}, "as its output head"),
        ("gemma2", {"attn_logit_softcapping": None}, "caps the scores"),
        ("gemma2", {"final_logit_softcapping": None}, "caps the logits"),
        ("gemma2", {"layer_types": [_GLOBAL, _SLIDING]}, "the last of each 2"),
        ("gemma2", {"query_pre_attn_scalar": 7, "head_dim": 256}, "not by that of 7"),
        ("gemma2", {"query_pre_attn_scalar": 144, "head_dim": 128}, "not by that of 144"),
        ("gemma2", {"sliding_window": None}, "needs the window"),
        ("gemma", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "does not scale the positions"),
        ("gemma2", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "does not scale the positions"),
        ("gemma", {"rope_theta": 50_000.0}, "with the base 10,000, not 50000.0"),
        ("gemma3", {"rope_parameters": {_GLOBAL: {"rope_type": "longrope", "factor": 8.0}}}, "by longrope"),
        ("gemma4", {"hidden_activation": "gelu_10"}, "not gelu_10"),
        ("gemma4", {"layer_types": [_GLOBAL] * 2}, "needs a sliding layer"),
        ("gemma4", {"num_hidden_layers": 35, "num_kv_shared_layers": 20}, "as the last two"),
        ("gemma4", {"rope_parameters": {_GLOBAL: {"rope_type": "proportional"}}}, "needs a partial_rotary_factor"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "does not cap"),
        ("gemma3_text", {"layer_types": [_SLIDING, _GLOBAL]}, "the last of each 6"),
        ("gemma4_unified_text", {}, "unified models with all parts only"),
    ],
)
def test_gguf_of_a_shape_that_llama_cpp_does_not_compute_is_refused(
    model_type: str, fields: dict[str, object], reason: str
) -> None:
    for config in ({"model_type": model_type} | fields, {"model_type": model_type, "text_config": fields}):
        problem = problem_of_config(config)
        assert problem is not None
        assert problem.code == "family_without_gguf"
        assert reason in problem.msg


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("gemma", {"hidden_act": "gelu", "head_dim": 256}),
        (
            "gemma2",
            {
                "query_pre_attn_scalar": 144,
                "head_dim": 128,
                "hidden_size": 4608,
                "num_attention_heads": 32,
                "num_hidden_layers": 46,
            },
        ),
        ("gemma4", {"layer_types": [_SLIDING, _GLOBAL] * 2, "num_kv_shared_layers": 2}),
        ("gemma4", {"tie_word_embeddings": False}),
        ("gemma2", {"num_hidden_layers": 26}),
        ("gemma2", {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
        ("gemma2", {"layer_types": [_SLIDING, _GLOBAL] * 2}),
        ("gemma3_text", {"attn_logit_softcapping": None, "layer_types": [_SLIDING] * 5 + [_GLOBAL]}),
        ("gemma3", {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}),
        ("gemma4", {"layer_types": [_SLIDING] * 4 + [_GLOBAL], "hidden_activation": "gelu_pytorch_tanh"}),
    ],
)
def test_gguf_of_published_shapes_is_not_refused(model_type: str, fields: dict[str, object]) -> None:
    assert problem_of_config({"model_type": model_type, "text_config": fields}) is None
