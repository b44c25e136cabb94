"""Models of real shapes with random weights, for `bench.gpu`.

Widths, heads, experts and vocabulary are those of the published models, taken from `gemtune.families`; only the number
of layers is lowered where the files would become too large. Configurations hold what config.json of the published
models holds, apart from the vision and audio towers, which text jobs do not load.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gemtune import families
from gemtune.families.size import Experts, ModelSize

# Dimension of a head of sliding layers, in every model below.
HEAD = 256
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Shape:
    """A published model to imitate.

    hub_name: its name on the Hub, without the owner. period: layers after which the pattern of sliding and global
    layers repeats.
    """

    hub_name: str
    period: int
    methods: tuple[str, ...] = ("LoRA", "QLoRA")


# In the order of their importance, as time may end before the last one.
SHAPES: Mapping[str, Shape] = {
    "gemma-3-4b": Shape("gemma-3-4b-it", 6),
    "gemma-4-e4b": Shape("gemma-4-E4B-it", 6),
    "gemma-3-1b": Shape("gemma-3-1b-it", 6),
    # bitsandbytes quantizes no expert, so QLoRA would measure the same weights again.
    "gemma-4-26b": Shape("gemma-4-26B-A4B-it", 6, ("LoRA",)),
}


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A model that was built.

    layers: how many it has. all_layers: how many the published model has. vocabulary: its number of tokens.
    """

    layers: int
    all_layers: int
    vocabulary: int


def build(name: str, folder: Path, *, max_bytes: int, device: str) -> BuiltModel:
    """Write a model with random weights of a published model's shape.

    max_bytes: size of its weights; layers are left out until they fit. On a CPU, for a dry run, the model is tiny.
    Raises ValueError if not even one period of layers fits.
    """
    import torch
    from transformers import AutoModelForCausalLM

    shape = SHAPES[name]
    size = families.size_by_name(f"google/{shape.hub_name}")
    assert size is not None
    layers = fitting_layers(size, shape.period, max_bytes) if device == "cuda" else 2 * shape.period
    all_layers, size = size.layers, size if device == "cuda" else shrunk(size)
    config = configuration(name, size, layers)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    save_tokenizer(folder, size.vocabulary)
    return BuiltModel(layers, all_layers, size.vocabulary)


def fitting_layers(size: ModelSize, period: int, max_bytes: int) -> int:
    """Return how many layers fit into so many bytes of weights.

    It is all layers, or a multiple of the period. Raises ValueError if one period is too large.
    """
    choices: list[int] = [size.layers, *range(size.layers - size.layers % period, 0, -period)]
    for layers in choices:
        if 2 * language_parameters(size, layers) <= max_bytes:
            return layers
    raise ValueError(f"{period} layers alone have {2 * language_parameters(size, period) / GIB:.1f} GiB")


def language_parameters(size: ModelSize, layers: int) -> int:
    """Return the parameters of a language model with so many layers.

    Norms and other vectors are left out. The share of each kind of layer is that of the whole model.
    """
    share = layers / size.layers
    linear = 0.0
    for kind in size.shapes:
        keys_and_values = (1 if kind.one_projection else 2) * kind.key_value
        attention = size.hidden * (2 * kind.attention + keys_and_values)
        linear += share * kind.count * (attention + 3 * size.hidden * kind.intermediate)
    tables = size.vocabulary * (size.hidden + layers * size.per_layer_input)
    return round(linear + share * size.expert_parameters) + tables


def configuration(name: str, size: ModelSize, layers: int) -> Any:
    """Return transformers' configuration of a model with so many layers."""
    from transformers import Gemma3TextConfig, Gemma4TextConfig

    sliding = size.shapes[0]
    settings: dict[str, Any] = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": sliding.intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": sliding.attention // HEAD,
        "num_key_value_heads": sliding.key_value // HEAD,
        "head_dim": HEAD,
        "max_position_embeddings": 32_768,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "tie_word_embeddings": True,
    }
    if name.startswith("gemma-3"):
        return Gemma3TextConfig(**settings, sliding_window=512, query_pre_attn_scalar=HEAD)
    return Gemma4TextConfig(**settings | _gemma4_settings(size, layers, SHAPES[name].period))


def _gemma4_settings(size: ModelSize, layers: int, period: int) -> dict[str, Any]:
    """Return the fields of a text configuration that only Gemma 4 has."""
    sliding, global_layers = size.shapes[0], size.shapes[1]
    sharing = sum(kind.count for kind in size.shapes if kind.key_value == 0)
    settings: dict[str, Any] = {
        "layer_types": ([*["sliding_attention"] * (period - 1), "full_attention"] * layers)[:layers],
        "sliding_window": 512,
        "global_head_dim": 2 * HEAD,
        "final_logit_softcapping": 30.0,
        # Whole periods, so that each kind of layer has one whose keys and values it can use.
        "num_kv_shared_layers": period * round(sharing * layers / size.layers / period),
        "hidden_size_per_layer_input": size.per_layer_input,
        "vocab_size_per_layer_input": size.vocabulary,
        "use_double_wide_mlp": any(kind.intermediate > sliding.intermediate for kind in size.shapes),
    }
    if global_layers.one_projection:
        settings |= {"attention_k_eq_v": True, "num_global_key_value_heads": global_layers.key_value // (2 * HEAD)}
    if size.experts is not None:
        settings |= {
            "enable_moe_block": True,
            "num_experts": size.experts.count,
            "top_k_experts": size.experts.per_token,
            "moe_intermediate_size": size.experts.intermediate,
        }
    return settings


def save_tokenizer(folder: Path, vocabulary: int) -> None:
    """Write a tokenizer that TRL and unsloth can load; no row is tokenized."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    words = {word: index for index, word in enumerate([*special, *(f"w{index}" for index in range(4, vocabulary))])}
    Tokenizer(WordLevel(words, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token"), special, strict=True))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32_768, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def shrunk(size: ModelSize) -> ModelSize:
    """Return a tiny size with the same kinds of layers, for a dry run."""
    kinds = tuple(
        replace(
            kind,
            intermediate=128 * (2 if kind.intermediate > size.shapes[0].intermediate else 1),
            attention=2 * HEAD * (kind.attention // size.shapes[0].attention),
            key_value=min(kind.key_value, 2 * HEAD),
        )
        for kind in size.shapes
    )
    experts = None if size.experts is None else Experts(4, 32, 2)
    per_layer_input = min(size.per_layer_input, 16)
    return replace(size, hidden=64, shapes=kinds, vocabulary=512, experts=experts, per_layer_input=per_layer_input)


def main() -> None:
    """Build one model, and print what was built and on which device."""
    name, folder, max_bytes, device = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    import torch

    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    built = build(name, folder, max_bytes=max_bytes, device=device)
    print(json.dumps({**asdict(built), "card": card, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
