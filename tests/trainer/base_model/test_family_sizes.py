"""Published sizes of models, compared with models that transformers builds.

These have the published shapes, but no weights.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gemtune import families
from gemtune.machines import model_size


def _types(layers: int, pattern: int) -> list[str]:
    return ["full_attention" if (layer + 1) % pattern == 0 else "sliding_attention" for layer in range(layers)]


_LARGE_TOWER = {
    "hidden_size": 1152,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 4304,
    "head_dim": 72,
    "standardize": True,
}
# Shapes from https://github.com/google-deepmind/gemma (gm/nn/gemma4/_gemma4.py).
GEMMA_4: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "gemma-4-e2b": (
        {
            "hidden_size": 1536,
            "intermediate_size": 6144,
            "num_hidden_layers": 35,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "layer_types": _types(35, 5),
            "num_kv_shared_layers": 20,
            "use_double_wide_mlp": True,
        },
        {"use_clipped_linears": True},
        True,
    ),
    "gemma-4-e4b": (
        {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 42,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "layer_types": _types(42, 6),
            "num_kv_shared_layers": 18,
        },
        {"use_clipped_linears": True},
        True,
    ),
    "gemma-4-26b": (
        {
            "hidden_size": 2816,
            "intermediate_size": 2112,
            "num_hidden_layers": 30,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "num_global_key_value_heads": 2,
            "attention_k_eq_v": True,
            "layer_types": _types(30, 6),
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 128,
            "top_k_experts": 8,
            "moe_intermediate_size": 704,
        },
        _LARGE_TOWER,
        False,
    ),
    "gemma-4-31b": (
        {
            "hidden_size": 5376,
            "intermediate_size": 21504,
            "num_hidden_layers": 60,
            "num_attention_heads": 32,
            "num_key_value_heads": 16,
            "num_global_key_value_heads": 4,
            "attention_k_eq_v": True,
            "layer_types": _types(60, 6),
            "hidden_size_per_layer_input": 0,
        },
        _LARGE_TOWER,
        False,
    ),
}


@pytest.mark.parametrize("name", GEMMA_4)
def test_published_sizes_of_gemma_4_match_its_shapes(name: str) -> None:
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    text, vision, has_audio = GEMMA_4[name]
    config = Gemma4Config(text_config=text, vision_config=vision, audio_config={} if has_audio else None)
    with torch.device("meta"):
        model = Gemma4ForConditionalGeneration(config)
    published = families.size_by_name(name)
    assert published is not None
    # transformers drops keys and values that no layer reads, but files contain them: 0.7% of E4B.
    counted = sum(weight.numel() for weight in model.parameters())
    assert counted <= published.parameters <= 1.01 * counted
    saved = {"model_type": "gemma4", "dtype": "bfloat16", "text_config": {"model_type": "gemma4_text", **text}}
    saved["text_config"] |= {"vocab_size": 262_144, "head_dim": 256, "global_head_dim": 512}
    if "hidden_size_per_layer_input" not in text:
        saved["text_config"]["hidden_size_per_layer_input"] = 256
    computed = model_size.of_folder(saved, 2 * published.parameters)
    assert set(computed.shapes) == set(published.shapes)
    assert (computed.experts, computed.per_layer_input) == (published.experts, published.per_layer_input)
    language = model.model.language_model
    assert published.embeddings == language.embed_tokens.weight.numel() + (
        language.embed_tokens_per_layer.weight.numel() if published.per_layer_input else 0
    )
    if published.experts is not None:
        parameters = dict(language.named_parameters())
        assert published.expert_parameters == sum(p.numel() for n, p in parameters.items() if ".experts." in n)


@pytest.mark.parametrize(("shape", "rank"), [("gemma3", 4), ("gemma4-e", 8), ("gemma4-moe", 4), ("gemma4-unified", 2)])
def test_the_parameter_count_of_an_adapter_matches_peft(tmp_path: Any, shape: str, rank: int) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tests import tiny_gemma
    from trainer.base_model.folder_contents import config_of
    from trainer.model import adapted_layers

    folder = tiny_gemma.build(tmp_path / "base", shape)
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    size = model_size.of_folder(config_of(folder), weights)
    lora = LoraConfig(
        r=rank,
        target_modules=adapted_layers.target_modules(model, vision_tower=False),
        target_parameters=adapted_layers.target_parameters(model),
    )
    trained = sum(weight.numel() for weight in get_peft_model(model, lora).parameters() if weight.requires_grad)
    assert size.lora_parameters(rank) == trained
