"""Fields of config.json: refused if transformers does not read them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters

from gemtune import families
from gemtune.families.configs import fields, shapes

# As transformers saves the language model of each kind of Gemma, small.
_ROTATIONS = {kind: {"rope_type": "default", "rope_theta": 10_000.0} for kind in shapes.LAYER_TYPES}
_TEXT: Mapping[str, Any] = {
    "vocab_size": 540,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "sliding_window": 64,
    "rope_parameters": _ROTATIONS,
}
TEXTS: Mapping[str, Mapping[str, Any]] = {
    "gemma": {name: value for name, value in _TEXT.items() if name not in ("layer_types", "rope_parameters")},
    "gemma2": {name: value for name, value in _TEXT.items() if name != "rope_parameters"},
    "gemma3_text": _TEXT,
    "gemma3n_text": _TEXT | {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 16, "laurel_rank": 8},
    "gemma4_text": _TEXT | {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 16},
    "gemma4_unified_text": _TEXT,
}
ODD: tuple[Any, ...] = (
    *(None, 0, -1, 3, 65, "64", 64.0, 0.5, True, "nonsense", {}, []),
    *(["x"], *([value] * 6 for value in (1, 0.5, "x", None, []))),
)


def stated_types(model_type: str) -> Mapping[str, Any]:
    """Return what transformers states as the types of a configuration."""
    return type(AutoConfig.for_model(**{"model_type": model_type} | TEXTS[model_type])).__annotations__


def odd_fields(model_type: str) -> Iterator[dict[str, Any]]:
    """Yield a field of a configuration with a value of another type or size."""
    of_global_layers = ("global_head_dim", "num_global_key_value_heads") if "gemma4" in model_type else ()
    for name in {*stated_types(model_type), *TEXTS[model_type], *of_global_layers, "hidden_act", "hidden_activation"}:
        yield from ({name: value} for value in ODD)


def is_read(config: Mapping[str, Any]) -> bool:
    """Return whether transformers reads a configuration."""
    try:
        AutoConfig.for_model(**copy.deepcopy(dict(config)))
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, StrictDataclassError):
        return False
    return True


@pytest.mark.parametrize("model_type", TEXTS)
def test_a_config_that_transformers_does_not_read_is_refused(model_type: str) -> None:
    base = {"model_type": model_type} | TEXTS[model_type]
    assert families.problem_of_config(base) is None
    late = [
        odd
        for odd in odd_fields(model_type)
        if families.problem_of_config(base | odd) is None and not is_read(base | odd)
    ]
    assert late == []


@pytest.mark.parametrize("model_type", TEXTS)
def test_every_field_of_transformers_has_its_types(model_type: str) -> None:
    # Training fails with the null of the first one and a number as the last one, and the second one has other words.
    others = ("attention_dropout", "use_bidirectional_attention", "activation_sparsity_pattern")
    stated = {name: kind for name, kind in stated_types(model_type).items() if name not in others}
    assert set(stated) <= set(fields.TYPES)
    for name, kind in stated.items():
        kinds = {getattr(each, "__origin__", each) for each in get_args(kind) or (kind,)} - {RopeParameters}
        assert kinds <= set(fields.TYPES[name]), name


def test_names_are_those_of_transformers() -> None:
    assert set(ACT2FN) == shapes.ACTIVATIONS
    assert {"default", *ROPE_INIT_FUNCTIONS} == set(shapes.ROPE_TYPES)


_MIXTURE = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}


@pytest.mark.parametrize(
    ("model_type", "odd", "reason"),
    [
        ("gemma3_text", {"num_key_value_heads": 3}, "cannot share 3 heads"),
        ("gemma4_text", {"attention_k_eq_v": True, "num_global_key_value_heads": 3}, "cannot share 3 heads"),
        ("gemma4_text", {"per_layer_config": {"2": {"num_key_value_heads": 3}}}, "cannot share 3 heads"),
        ("gemma3_text", {"hidden_size": 65}, "not a multiple of its 2 attention heads"),
        ("gemma3_text", {"head_dim": 33}, "rotate pairs"),
        ("gemma3_text", {"layer_types": ["full_attention"] * 5}, "has 5 layer_types for 6 layers"),
        ("gemma3_text", {"layer_types": ["linear_attention"] * 6}, "no Gemma has a layer of the type"),
        ("gemma3_text", {"sliding_window": None}, "without a sliding_window"),
        ("gemma3_text", {"hidden_activation": "gelu_tanh"}, "no activation"),
        ("gemma3_text", {"hidden_activation": None, "hidden_act": "gelu"}, "in no model of its generation"),
        ("gemma4_text", {"sliding_window": None, "layer_types": ["full_attention"] * 6}, "in no model of its"),
        ("gemma3n_text", {"activation_sparsity_pattern": [1] * 6}, "an entry of activation_sparsity_pattern"),
        ("gemma3_text", {"rope_scaling": {"rope_type": "mrope"}}, 'by "mrope"'),
        ("gemma3_text", {"rope_scaling": {"type": "linear"}}, "by linear without a factor"),
        ("gemma3_text", {"rope_scaling": "linear"}, "not an object"),
        ("gemma3_text", {"final_logit_softcapping": 30}, "final_logit_softcapping is 30"),
        ("gemma3_text", {"dtype": "float8_e4m3fn"}, "not one of float32"),
        ("gemma3_text", {"torch_dtype": 7}, "not one of float32"),
        ("gemma3_text", {"text_config": None}, "text_config is null"),
        ("gemma4_text", {"rope_parameters": {"rope_type": "default"}}, "lack a rope_theta"),
        ("gemma4_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, "do not have"),
        ("gemma4_text", {"num_kv_shared_layers": 4}, "none of each type"),
        ("gemma4_text", {"num_kv_shared_layers": 6}, "none of each type"),
        ("gemma4_text", {"num_kv_shared_layers": 1, "layer_types": None}, "none of each type"),
        ("gemma3_text", {"layer_types": None, "sliding_window": None}, "without a sliding_window"),
        ("gemma3_text", {"layer_types": None, "sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        ("gemma3_text", {"layer_types": None, "sliding_window_pattern": None}, "sliding_window_pattern is null"),
        ("gemma3_text", {"vocab_size": 2}, "its vocab_size is 2, and its bos_token_id 2"),
        ("gemma3_text", {"pad_token_id": 540}, "its vocab_size is 540, and its pad_token_id 540"),
        ("gemma3_text", {"eos_token_id": [1, 106, 540]}, "its vocab_size is 540, and its eos_token_id [1, 106, 540]"),
        ("gemma3_text", {"initializer_range": -0.02}, "initializer_range is -0.02"),
        ("gemma4_text", {"per_layer_config": {"2": {"head_dim": 64}}}, "differ from each other"),
        ("gemma4_text", {"per_layer_config": {"2": 7}}, "not an object of objects"),
        ("gemma4_text", _MIXTURE | {"num_experts": 0}, "num_experts is 0"),
        ("gemma4_text", _MIXTURE | {"top_k_experts": 5}, "each token needs 5"),
        ("gemma4_text", {"enable_moe_block": True}, "num_experts is null"),
        ("gemma4", {}, "text_config is null"),
        ("gemma4", {"text_config": 7}, "text_config is 7"),
        ("gemma4", {"text_config": {}, "vision_config": "x"}, 'vision_config is "x"'),
        ("gemma4", {"text_config": {}, "image_token_id": 2.5}, "image_token_id is 2.5"),
    ],
    ids=str,
)
def test_a_config_that_contradicts_itself_is_refused_with_the_reason(
    model_type: str, odd: dict[str, Any], reason: str
) -> None:
    problem = families.problem_of_config({"model_type": model_type} | TEXTS.get(model_type, {}) | odd)
    assert problem is not None
    assert reason in problem.msg


@pytest.mark.parametrize(
    ("model_type", "fields", "reason"),
    [
        ("gemma", {"num_key_value_heads": 3}, "its 16 attention heads cannot share 3 heads"),
        ("gemma2", {"num_attention_heads": 7}, "its 7 attention heads cannot share 4 heads"),
        ("gemma3_text", {"hidden_size": 2300}, "not a multiple of its 8 attention heads"),
        ("gemma3n_text", {"num_hidden_layers": 12}, "its last 15 layers use keys and values"),
        ("gemma4_text", {"layer_types": ["full_attention"] * 6}, "has 6 layer_types for 30 layers"),
    ],
)
def test_a_config_that_contradicts_what_it_omits_is_refused(
    model_type: str, fields: dict[str, Any], reason: str
) -> None:
    problem = families.problem_of_config({"model_type": model_type} | fields)
    assert problem is not None
    assert reason in problem.msg


def test_the_fields_of_every_generation_are_compared() -> None:
    assert [family.name for family in families.FAMILIES if not set(family.model_types) & set(TEXTS)] == []


@pytest.mark.parametrize("model_type", TEXTS)
@pytest.mark.parametrize("layers", [6, 7, 15])
def test_what_a_config_omits_is_what_transformers_takes(model_type: str, layers: int) -> None:
    family = families.of_model_type(model_type)
    assert family is not None
    plain = type(AutoConfig.for_model(model_type))
    ours = family.defaults.completed({})
    assert {name: getattr(plain, name, 0) for name in ours if name != "layer_types"} == {
        name: value for name, value in ours.items() if name != "layer_types"
    }
    stated = {"num_hidden_layers": layers, "num_kv_shared_layers": 0}
    for text in ({}, stated, stated | {"sliding_window_pattern": 4}):
        types = getattr(AutoConfig.for_model(model_type, **text), "layer_types", None)
        assert family.defaults.completed(text).get("layer_types") == types
    last_sliding = ["full_attention", "sliding_attention"] * layers
    if model_type != "gemma":
        config: Any = AutoConfig.for_model(model_type, layer_types=list(last_sliding), num_hidden_layers=2 * layers)
        assert family.defaults.completed({"layer_types": last_sliding})["layer_types"] == config.layer_types


def test_a_field_that_published_models_of_gemma_1_have_is_not_refused() -> None:
    config = {"model_type": "gemma", "hidden_act": "gelu", "hidden_activation": None}
    assert families.problem_of_config(config) is None


@pytest.mark.parametrize("field", [{"hidden_act": ["gelu"]}, {"hidden_activation": "gelu_tanh"}, {"top_k_experts": []}])
def test_a_field_that_transformers_reads_in_text_config_is_not_judged_beside_it(field: dict[str, Any]) -> None:
    config = {"model_type": "gemma4", "text_config": dict(TEXTS["gemma4_text"])} | field
    assert is_read(config)
    assert families.problem_of_config(config) is None


@pytest.mark.parametrize("quantized", [{}, "x", 7, [], False, {"quant_method": "gguf"}, {"load_in_4bit": True}])
def test_any_quantization_config_is_refused(quantized: object) -> None:
    problem = families.problem_of_config({"model_type": "gemma3_text", "quantization_config": quantized})
    assert problem is not None
    assert "stored quantized" in problem.msg
