"""Shapes of tiny models in llama.cpp, beside transformers.

A shape that llama.cpp computes otherwise, or not at all, is refused by its config.json; one that it computes is not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gemtune.llama_cpp import problem_of_config
from tests import tiny_gemma
from tests.tiny_shapes import SHAPES
from tests.trainer.conftest import Children
from tests.trainer.gguf import shapes_program, wide_gemma3n

TOKENS = 110
# Median over positions of the squared error of logits, relative to their variance, below which two functions are the
# same: llama.cpp keeps keys, values and a table of the activation in float16. Measured: at most 0.0002 if they are, and
# from 0.012 on if not.
SAME = 0.005
SLIDING, GLOBAL = "sliding_attention", "full_attention"
_LARGE = {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "num_key_value_heads": 2, "num_attention_heads": 4}
_SHARING = {"num_kv_shared_layers": 3, "hidden_size_per_layer_input": 16}
_NARROW = {"intermediate_size": [128] * 25}
_EXPERTS = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}


def _rotated(sliding: Mapping[str, Any] = {}, **of_global: Any) -> dict[str, Any]:
    """Return rotary embeddings of a Gemma 4 that differ in some settings."""
    whole = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6} | of_global
    window = {"rope_type": "default", "rope_theta": 1e4} | dict(sliding)
    return {"rope_parameters": {"sliding_attention": window, "full_attention": whole}}


def _rotated_3(sliding: Mapping[str, Any] = {}, **of_global: Any) -> dict[str, Any]:
    return _rotated(sliding, **{"rope_type": "default", "partial_rotary_factor": 1.0} | of_global)


@dataclass(frozen=True, slots=True)
class Shape:
    """Fields of a configuration that differ from those of a tiny model.

    reason: part of the refusal; "" where llama.cpp computes the shape. amplifies: whether a Gemma 3n has the scores of
    attention of a new model, with which a small difference becomes a large one.
    """

    family: str
    fields: Mapping[str, Any]
    reason: str = ""
    amplifies: bool = False


SHAPES_IN_LLAMA_CPP: Mapping[str, Shape] = {
    "1": Shape("gemma", {}),
    "1, exact gelu": Shape("gemma", {"hidden_act": "gelu"}),
    "1, silu": Shape("gemma", {"hidden_act": "silu"}, "not silu"),
    "1, another base": Shape("gemma", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}, "the base"),
    "1, untied": Shape("gemma", {"tie_word_embeddings": False}, "output head"),
    "2": Shape("gemma2", {}),
    "2, another base": Shape("gemma2", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}, "the base"),
    "2, scale of 27B": Shape("gemma2", {"head_dim": 16}, "divides the scores"),
    "2, 46 layers": Shape("gemma2", {"head_dim": 16, "num_hidden_layers": 46}),
    "3": Shape("gemma3", {}),
    "3, silu": Shape("gemma3", {"hidden_activation": "silu"}, "not silu"),
    "3, linear": Shape("gemma3", _rotated_3(rope_type="linear", factor=8.0)),
    "3, yarn": Shape("gemma3", _rotated_3(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)),
    "3, sliding linear": Shape("gemma3", _rotated_3({"rope_type": "linear", "factor": 8.0}), "sliding layers"),
    "3, scale of 27B": Shape("gemma3", {"head_dim": 16}, "divides the scores"),
    "3n": Shape("gemma3n", {}),
    "3n, narrow": Shape("gemma3n", _NARROW, "other activations", amplifies=True),
    "3n, two widths": Shape("gemma3n", {"intermediate_size": [256] * 24 + [128]}, "of one width"),
    "3n, less sparse": Shape("gemma3n", _NARROW | {"activation_sparsity_pattern": [0.9] * 25}, "leaves out 95%"),
    "3n, other cap": Shape("gemma3n", _NARROW | {"final_logit_softcapping": 10.0}, "final_logit_softcapping 30"),
    "3n, lower rank": Shape("gemma3n", _NARROW | {"laurel_rank": 32}, "laurel_rank 64"),
    "3n, sharing more": Shape("gemma3n", _NARROW | {"num_kv_shared_layers": 10}, "20 layers that have"),
    "3n, fewer embeddings per layer": Shape("gemma3n", {"vocab_size_per_layer_input": 500}),
    "4 dense": Shape("gemma4", _LARGE),
    "4 dense, untied": Shape("gemma4", _LARGE | {"tie_word_embeddings": False}),
    "4 dense, silu": Shape("gemma4", _LARGE | {"hidden_activation": "silu"}, "not silu"),
    "4 dense, global layers only": Shape("gemma4", _LARGE | {"layer_types": [GLOBAL] * 6}, "a sliding layer"),
    "4 dense, odd widths": Shape("gemma4", {"hidden_size": 60, "head_dim": 20, "global_head_dim": 40}),
    "4 dense, equal heads": Shape("gemma4", _LARGE | {"global_head_dim": 32}, "heads of another width"),
    "4 dense, factor": Shape("gemma4", _LARGE | _rotated(factor=8.0), "no factor"),
    "4 dense, half rotated": Shape("gemma4", _LARGE | _rotated(partial_rotary_factor=0.5)),
    "4 dense, default rotation": Shape("gemma4", _LARGE | _rotated(rope_type="default"), "by proportional"),
    "4 dense, sliding linear": Shape(
        "gemma4", _LARGE | _rotated({"rope_type": "linear", "factor": 4.0}), "sliding layers"
    ),
    "4 sharing": Shape("gemma4", _SHARING | {"use_double_wide_mlp": True}),
    "4 sharing after a sliding layer": Shape("gemma4", _SHARING | {"num_kv_shared_layers": 2}, "the last two"),
    "4 sharing, more tokens per layer": Shape("gemma4", _SHARING | {"vocab_size_per_layer_input": 600}, "as tokens"),
    "4 experts": Shape("gemma4", _LARGE | _EXPERTS),
    "4 experts, one of three": Shape("gemma4", _LARGE | _EXPERTS | {"num_experts": 3, "top_k_experts": 1}),
    "4 experts and layers' inputs": Shape("gemma4", _LARGE | _EXPERTS | _SHARING | {"moe_intermediate_size": 24}),
}
_CLASSES = {
    "gemma": ("GemmaConfig", "GemmaForCausalLM", "gemma"),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", "gemma2"),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", "gemma3"),
    "gemma3n": ("Gemma3nTextConfig", "Gemma3nForCausalLM", "gemma3n-text"),
    "gemma4": ("Gemma4TextConfig", "Gemma4ForCausalLM", "gemma4-dense-text"),
}


def _settings(shape: Shape, vocabulary: int) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 6 if shape.family in ("gemma3", "gemma4") else 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 512,
    }
    if shape.family in ("gemma2", "gemma3"):
        settings |= {"query_pre_attn_scalar": 32, "sliding_window": 64}
    if shape.family == "gemma3n":
        settings |= wide_gemma3n.SETTINGS | {"vocab_size_per_layer_input": vocabulary}
    if shape.family == "gemma4":
        settings |= {
            "layer_types": [SLIDING, SLIDING, GLOBAL] * 2,
            "sliding_window": 64,
            "global_head_dim": 64,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": vocabulary,
        }
    return settings | dict(shape.fields)


def _built(shape: Shape, vocabulary: Path, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return a model with weights large enough to count, and its config.json.

    The config.json has the fields as they were stated, like those of the Hub.
    """
    import transformers

    shutil.copytree(vocabulary, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config_class, model_class, _ = _CLASSES[shape.family]
    settings = _settings(shape, len(tokenizer))
    torch.manual_seed(1)
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**settings)).eval()
    if shape.family == "gemma3n" and not shape.amplifies:
        wide_gemma3n.condition(model)
    else:
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.data.mul_(4)
    model.generation_config = transformers.GenerationConfig(bos_token_id=2, eos_token_id=[1], pad_token_id=0)
    model.set_attn_implementation("eager")
    model.save_pretrained(folder)
    if shape.family == "gemma3n":
        _add_unused_weights(folder / "model.safetensors")
    saved = json.loads((folder / "config.json").read_text())
    saved.pop("per_layer_config", None)
    (folder / "config.json").write_text(json.dumps(saved | settings))
    return model, saved | settings


def _add_unused_weights(file: Path) -> None:
    """Add the keys and values of layers that share those of others.

    Files of the Hub have them, and llama.cpp loads no other.
    """
    weights = load_file(file)
    for name in [name for name in weights if ".layers.19.self_attn." in name]:
        for layer in range(20, 25):
            weights.setdefault(name.replace(".19.", f".{layer}."), weights[name].clone())
    save_file(weights, file, metadata={"format": "pt"})


@dataclass(frozen=True, slots=True)
class Computed:
    """A shape's config.json, and its logits in both runtimes.

    exported: None if llama.cpp cannot convert, load or compute the model.
    """

    config: Mapping[str, Any]
    expected: torch.Tensor
    exported: torch.Tensor | None

    @property
    def agrees(self) -> bool:
        """Return whether llama.cpp computes the same function."""
        if self.exported is None:
            return False
        expected = self.expected[:, : self.exported.shape[1]]
        errors = (self.exported - expected).var(1) / expected.var(1)
        return bool(errors.median() < SAME)


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory, tools: Path, children: Children) -> Mapping[str, Computed]:
    """Compute all shapes in one go: a process takes long to import torch."""
    work = tmp_path_factory.mktemp("shapes")
    for family, (*_, shape) in _CLASSES.items():
        (work / family).mkdir()
        tiny_gemma.write_tokenizer(work / family, SHAPES[shape]).save_pretrained(work / family)
    tokens = [2, *torch.randint(260, 480, (TOKENS,), generator=torch.Generator().manual_seed(5)).tolist()]
    configs, expected, folders = {}, {}, {}
    for number, (name, shape) in enumerate(SHAPES_IN_LLAMA_CPP.items()):
        folders[name] = work / str(number)
        model, configs[name] = _built(shape, work / shape.family, folders[name])
        (folders[name] / "tokens.json").write_text(json.dumps(tokens))
        with torch.no_grad():
            expected[name] = model(input_ids=torch.tensor([tokens])).logits[0]
    program = [str(Path(shapes_program.__file__)), str(tools), *map(str, folders.values())]
    assert children.run(program, lambda: None).code == 0
    stored = {name: folder / "logits.npy" for name, folder in folders.items()}
    exported = {name: torch.from_numpy(np.load(path)) for name, path in stored.items() if path.is_file()}
    return {name: Computed(configs[name], expected[name], exported.get(name)) for name in folders}


@pytest.mark.parametrize("name", SHAPES_IN_LLAMA_CPP)
def test_a_shape_is_refused_exactly_if_llama_cpp_does_not_compute_it(
    name: str, computed: Mapping[str, Computed]
) -> None:
    reason, problem = SHAPES_IN_LLAMA_CPP[name].reason, problem_of_config(computed[name].config)
    assert (problem is None) is (reason == "")
    assert problem is None or reason in problem.msg
    assert computed[name].agrees is (problem is None)
