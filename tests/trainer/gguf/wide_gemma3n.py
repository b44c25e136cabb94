"""A tiny Gemma 3n of the shape that llama.cpp has in its code.

Its MLPs are wide, since llama.cpp divides the variance of their activations by n - 1 and transformers by n.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests import tiny_gemma

WIDTH = 2048
_SLIDING, _GLOBAL = "sliding_attention", "full_attention"
SETTINGS: Mapping[str, Any] = {
    "num_hidden_layers": 25,
    "num_kv_shared_layers": 5,
    "layer_types": ([_SLIDING] * 4 + [_GLOBAL]) * 5,
    "hidden_size_per_layer_input": 256,
    "laurel_rank": 64,
    "intermediate_size": [WIDTH] * 25,
    "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 15,
}


def build(folder: Path) -> Path:
    """Write the model to a folder that does not exist, and return it.

    Its last tokens have no embedding per layer, as those of pictures in the real models.
    """
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    tiny_gemma.build(folder, "gemma3n-text")
    settings = json.loads((folder / "config.json").read_text()) | SETTINGS
    settings["vocab_size_per_layer_input"] = settings["vocab_size"] - 2
    torch.manual_seed(0)
    model = Gemma3nForCausalLM(Gemma3nTextConfig(**settings))
    condition(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def condition(model: Any) -> None:
    """Give a new model weights with which rounding stays small.

    Scores of attention are not divided by the root of a head's width, so new norms make them large, and a small error
    a large one. Logits become so large that capping them shows.
    """
    config = model.config
    for name, weight in model.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            weight.data.fill_(config.head_dim**-0.25)
        elif name.endswith("altup.correct_output_scale"):
            weight.data.fill_(1.0)
        elif name == "model.norm.weight":
            weight.data.fill_(10.0)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=config.hidden_size**-0.5)
