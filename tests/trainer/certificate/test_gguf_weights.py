"""Parts of the check of GGUF files that need no llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, quants

from trainer.certificate.files import gguf_weights, settings
from trainer.certificate.files.weights import Weight
from trainer.gguf.dither import LOW_BITS
from trainer.gguf.file_layout import Entry

F32 = 0


def write_metadata(path: Path, prefix: str, numbers: dict[str, float]) -> Path:
    """Write a GGUF file with numbers, whose keys have a prefix."""
    writer = GGUFWriter(path, prefix.partition(".")[0])
    for key, value in numbers.items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
        add(f"{prefix}.{key}", value)
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stored(folder: Path, values: torch.Tensor, name: str = "blk.0.attn_k.weight") -> gguf_weights._Tensor:
    """Return a tensor of a file that has nothing else."""
    path = folder / f"{len(list(folder.iterdir()))}.bin"
    values.float().numpy().tofile(path)
    return gguf_weights._Tensor(path, Entry(name, F32, tuple(values.shape), 0), "F32", (1, 4))


def problem_of(tensor: gguf_weights._Tensor, weight: Weight, tokens: int) -> str | None:
    """Return the problem of a tensor of a model with so many tokens."""
    of_tokens = gguf_weights._of_tokens(weight, tensor.entry, tokens)
    return gguf_weights._problem(tensor, of_tokens, 0.0, was_dithered=False)


def test_only_rows_of_an_embedding_that_belong_to_no_token_may_be_left_out(tmp_path: Path) -> None:
    values = torch.arange(32, dtype=torch.bfloat16).reshape(8, 4)
    shorter = stored(tmp_path, values[:6])
    for name in ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight", "lm_head.weight"):
        embedding = Weight(name, values, trained=True)
        assert problem_of(stored(tmp_path, values), embedding, tokens=9) is None
        assert problem_of(shorter, embedding, tokens=6) is None
        assert "has the shape (6, 4)" in str(problem_of(shorter, embedding, tokens=7))
    layer = Weight("model.layers.0.self_attn.k_proj.weight", values, trained=True)
    assert "has the shape (6, 4)" in str(problem_of(shorter, layer, tokens=6))


def quantized(folder: Path, values: torch.Tensor) -> gguf_weights._Tensor:
    """Return a tensor of a file in q8_0 that has nothing else."""
    kind = GGMLQuantizationType.Q8_0
    path = folder / "q8_0.bin"
    quants.quantize(values.numpy(), kind).tofile(path)
    return gguf_weights._Tensor(path, Entry("x", int(kind), tuple(values.shape), 0), "Q8_0", GGML_QUANT_SIZES[kind])


@pytest.mark.parametrize(("size", "changed_by", "is_right"), [(1e-6, 1.0, True), (1e-5, 1.0, True), (1e-3, 1.1, False)])
def test_a_row_of_small_values_may_be_rounded_to_nothing(
    tmp_path: Path, size: float, changed_by: float, is_right: bool
) -> None:
    """The scale of its blocks is less than the smallest number of 16 bits."""
    values = torch.randn(8, 256, generator=torch.Generator().manual_seed(1)) * 0.02
    values[3] *= size / 0.02
    values = values.bfloat16().float()
    exported = values.clone()
    exported[3] *= changed_by
    weight = Weight("model.embed_tokens.weight", values.bfloat16(), trained=False)
    problem = gguf_weights._problem(quantized(tmp_path, exported), weight, 0.0, was_dithered=False)
    assert (problem is None) is is_right


def test_each_type_of_quantization_has_its_largest_multiple() -> None:
    assert set(gguf_weights.MULTIPLES) == set(LOW_BITS)


@pytest.mark.parametrize(
    ("factors", "is_right"),
    [
        ([1, 1, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30], True),
        ([1, 1, 1, 1, 1, 1, 1, 1], False),
        ([1, 1.5, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30], False),
        ([1, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30], False),
    ],
)
def test_rotary_embeddings_of_gemma_4_leave_the_dimensions_alone_that_the_model_does(
    tmp_path: Path, factors: list[float], is_right: bool
) -> None:
    rope = {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25}}
    tensor = stored(tmp_path, torch.tensor(factors), gguf_weights.ROPE_FACTORS)
    for config in ({"rope_parameters": rope}, {"text_config": {"rope_parameters": rope}}):
        assert gguf_weights._has_rope_factors(tensor, config) is is_right


LINEAR = {"rope_type": "linear", "factor": 8.0}


@pytest.mark.parametrize(
    ("config", "written", "problem"),
    [
        ({"rope_scaling": LINEAR}, {"rope.scaling.factor": 8.0}, None),
        ({"rope_scaling": LINEAR}, {"rope.scaling.factor": 4.0}, "rope.scaling.factor is 4.0, not 8.0"),
        ({"rope_scaling": LINEAR}, {}, "rope.scaling.factor is 1.0, not 8.0"),
        ({"rope_scaling": None}, {}, None),
        ({"rope_scaling": None}, {"rope.scaling.factor": 8.0}, "rope.scaling.factor is 8.0, not 1.0"),
        ({"rope_parameters": {"full_attention": LINEAR}}, {"rope.scaling.factor": 8.0}, None),
        ({"rope_parameters": {"full_attention": LINEAR}}, {}, "rope.scaling.factor is 1.0, not 8.0"),
        ({"rope_parameters": {"rope_type": "default", "factor": 8.0}}, {}, None),
        ({"top_k_experts": 8}, {"expert_used_count": 8}, None),
        ({"top_k_experts": 8}, {"expert_used_count": 4}, "expert_used_count is 4, not 8"),
        ({"top_k_experts": None}, {}, None),
    ],
)
def test_settings_that_change_no_shape_are_compared(
    tmp_path: Path, config: dict[str, Any], written: dict[str, float], problem: str | None
) -> None:
    path = write_metadata(tmp_path / "model.gguf", "gemma3", written)
    problems = settings._hyperparameter_problems(path, config)
    assert problems == ([] if problem is None else [f"gemma3.{problem}"])


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, None),
        ({"patch_size": 16}, "patch_size of mmproj.gguf is 16, not 14"),
        ({"attention.head_count": 4}, "attention.head_count of mmproj.gguf is 4, not 2"),
        ({"attention.layer_norm_epsilon": 0.5}, "attention.layer_norm_epsilon of mmproj.gguf is 0.5, not 1e-06"),
    ],
)
def test_settings_of_a_vision_tower_are_compared(
    tmp_path: Path, changed: dict[str, float], problem: str | None
) -> None:
    vision = {"patch_size": 14, "num_attention_heads": 2, "layer_norm_eps": 1e-6}
    written = {"patch_size": 14, "attention.head_count": 2, "attention.layer_norm_epsilon": 1e-6} | changed
    path = write_metadata(tmp_path / "mmproj.gguf", "clip.vision", written)
    problems = settings.projector_problems(path, {"model_type": "gemma3", "vision_config": vision})
    assert problems == ([] if problem is None else [f"clip.vision.{problem}"])
    assert settings.projector_problems(path, {"model_type": "gemma3", "vision_config": None}) == []
