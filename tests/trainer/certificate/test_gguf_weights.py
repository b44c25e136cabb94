"""Parts of the check of GGUF files that need no llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, quants

from tests.trainer.gguf.test_gguf import gguf_export
from trainer.certificate.files import gguf_keys, gguf_settings, gguf_tensor, gguf_weights
from trainer.certificate.files.weights import Weight
from trainer.gguf.file_layout import Entry, contents

F32 = 0


def write_metadata(path: Path, prefix: str, numbers: dict[str, Any]) -> Path:
    """Write a GGUF file with numbers, whose keys have a prefix."""
    writer = GGUFWriter(path, prefix.partition(".")[0])
    for key, value in numbers.items():
        kinds: dict[type, Any] = {
            int: writer.add_uint32,
            float: writer.add_float32,
            list: writer.add_array,
            bool: writer.add_bool,
            str: writer.add_string,
        }
        kinds[type(value)](f"{prefix}.{key}", value)
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stored(folder: Path, values: torch.Tensor, name: str = "blk.0.attn_k.weight") -> gguf_tensor.Tensor:
    """Return a tensor of a file that has nothing else."""
    path = folder / f"{len(list(folder.iterdir()))}.bin"
    values.float().numpy().tofile(path)
    return gguf_tensor.Tensor(path, Entry(name, F32, tuple(values.shape), 0), "F32", (1, 4))


def problem_of(tensor: gguf_tensor.Tensor, weight: Weight, tokens: int) -> str | None:
    """Return the problem of a tensor of a model with so many tokens."""
    of_tokens = gguf_weights._of_tokens(weight, tensor.entry, tokens)
    return gguf_tensor.problem(tensor, of_tokens, 0.0, was_dithered=False)


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


def quantized(folder: Path, values: torch.Tensor) -> gguf_tensor.Tensor:
    """Return a tensor of a file in q8_0 that has nothing else."""
    kind = GGMLQuantizationType.Q8_0
    path = folder / "q8_0.bin"
    quants.quantize(values.numpy(), kind).tofile(path)
    return gguf_tensor.Tensor(path, Entry("x", int(kind), tuple(values.shape), 0), "Q8_0", GGML_QUANT_SIZES[kind])


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
    problem = gguf_tensor.problem(quantized(tmp_path, exported), weight, 0.0, was_dithered=False)
    assert (problem is None) is is_right


def test_values_are_the_nearest_in_8_bits_only_with_the_right_scale_and_multiples(tmp_path: Path) -> None:
    values = torch.randn(8, 256, generator=torch.Generator().manual_seed(1)).bfloat16().float().reshape(-1)
    values[:32] = 0.0
    file = quantized(tmp_path, values.reshape(8, 256))
    assert file.is_nearest(0, values)
    honest = file.path.read_bytes()
    for place in (34 * 5, 34 * 5 + 2 + 7, len(honest) - 1):  # the lowest bits of a scale, and two multiples
        wrong = bytearray(honest)
        wrong[place] ^= 1
        file.path.write_bytes(wrong)
        assert not file.is_nearest(0, values)


@pytest.mark.parametrize("share", [1.0, 0.25, 0.0, 2.0])
def test_a_tensor_without_what_training_added_is_noticed(tmp_path: Path, share: float) -> None:
    """Training adds less to the weights than the error of 8 bits."""
    generator = torch.Generator().manual_seed(1)
    before = (torch.randn(512, 256, generator=generator) * 0.02).bfloat16()
    added = torch.randn(512, 256, generator=generator) * 5e-5
    file = quantized(tmp_path, before.float() + share * added)
    weight = Weight("model.layers.0.self_attn.k_proj.weight", before.float() + added, trained=True, before=before)
    problem = gguf_tensor.problem(file, weight, 0.0, was_dithered=False)
    assert (problem is None) is (share == 1.0)
    assert problem is None or "of what training added" in problem


def test_few_levels_may_hold_a_multiple_of_what_training_added(tmp_path: Path) -> None:
    """A small addition decides between levels that a weight is between."""
    generator = torch.Generator().manual_seed(1)
    kind, added = GGMLQuantizationType.Q4_0, torch.randn(512, 256, generator=generator) * 5e-4
    before = torch.rand(512, 256, generator=generator) - 0.5
    is_between = torch.rand(512, 256, generator=generator) < 0.25
    before[is_between] = torch.randint(-7, 7, (512, 256), generator=generator)[is_between] * 0.0625 + 0.03125
    before[:, ::32], added[:, ::32] = -0.5, 0  # the largest of each block, so that levels are 1/16 apart
    before = before.bfloat16()
    path = tmp_path / "q4_0.bin"
    quants.quantize((before.float() + added).numpy(), kind).tofile(path)
    tensor = gguf_tensor.Tensor(path, Entry("x", int(kind), (512, 256), 0), "Q4_0", GGML_QUANT_SIZES[kind])
    exact = before.float() + added
    rounding = torch.from_numpy(tensor.chunk(0, exact.numel())[0]).reshape(exact.shape) - exact
    assert 1 + float((rounding * added).sum() / added.square().sum()) > 5
    weight = Weight("x", exact, trained=True, before=before)
    assert gguf_tensor.problem(tensor, weight, 0.0, was_dithered=False) is None


@pytest.mark.parametrize(("largest", "is_right"), [(65_024.0, True), (70_144.0, False)])
def test_an_untrained_weight_beyond_the_range_of_float16_is_noticed(
    tmp_path: Path, largest: float, is_right: bool
) -> None:
    values = torch.tensor([[1.0, -0.3], [0.0, largest]]).bfloat16()
    (tmp_path / "f16.bin").write_bytes(values.half().numpy().tobytes())
    tensor = gguf_tensor.Tensor(tmp_path / "f16.bin", Entry("x", 1, (2, 2), 0), "F16", (1, 2))
    problem = gguf_tensor.problem(tensor, Weight("x", values, trained=False), 0.0, was_dithered=False)
    assert problem == (None if is_right else "differs from the trained weights by up to inf")


@pytest.mark.parametrize(("kind", "factor"), [("Q8_0", 1.05), ("Q8_0", 0.95), ("Q5_0", 1.4), ("Q4_0", 0.6)])
def test_a_single_block_that_is_scaled_is_noticed(tmp_path: Path, kind: str, factor: float) -> None:
    """Scale 32 values of a row of 2048, which as a whole hardly differs."""
    values = (torch.randn(64, 2048, generator=torch.Generator().manual_seed(1)) * 0.02).bfloat16()
    exported = values.float()
    type_of_tensor = GGMLQuantizationType[kind]
    path = tmp_path / "quantized.bin"
    entry = Entry("x", int(type_of_tensor), (64, 2048), 0)
    tensor = gguf_tensor.Tensor(path, entry, kind, GGML_QUANT_SIZES[type_of_tensor])
    for part, is_right in ((exported[:0], True), (exported[5, 64:96], False)):
        part *= factor
        quants.quantize(exported.numpy(), type_of_tensor).tofile(path)
        problem = gguf_tensor.problem(tensor, Weight("x", values, trained=False), 0.0, was_dithered=False)
        assert (problem is None) is is_right, problem
        assert problem is None or "has a block scaled by" in problem


@pytest.mark.parametrize("factor", [1.0, 1.1, 0.88])
def test_a_row_that_is_scaled_within_the_error_of_its_type_is_noticed(tmp_path: Path, factor: float) -> None:
    values = (torch.randn(64, 2048, generator=torch.Generator().manual_seed(1)) * 0.02).bfloat16()
    exported = values.float()
    exported[5] *= factor
    kind = GGMLQuantizationType.Q4_0
    path = tmp_path / "q4_0.bin"
    quants.quantize(exported.numpy(), kind).tofile(path)
    tensor = gguf_tensor.Tensor(path, Entry("x", int(kind), (64, 2048), 0), "Q4_0", GGML_QUANT_SIZES[kind])
    problem = gguf_tensor.problem(tensor, Weight("x", values, trained=False), 0.0, was_dithered=False)
    assert (problem is None) is (factor == 1.0)
    assert problem is None or "has a row scaled by" in problem


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q4_0])
def test_noise_that_just_passes_is_smaller_than_the_error_of_rounding(
    tmp_path: Path, kind: GGMLQuantizationType
) -> None:
    """A file that keeps the task after rounding keeps it with such noise."""
    generator = torch.Generator().manual_seed(1)
    values = (torch.randn(256, 256, generator=generator) * 0.02).bfloat16()
    noise = torch.randn(256, 256, generator=generator) * 0.02
    path = tmp_path / "quantized.bin"
    tensor = gguf_tensor.Tensor(path, Entry("x", int(kind), (256, 256), 0), kind.name, GGML_QUANT_SIZES[kind])

    def passes(share: float) -> bool:
        quants.quantize((values.float() + share * noise).numpy(), kind).tofile(path)
        return gguf_tensor.problem(tensor, Weight("x", values, trained=False), 0.0, was_dithered=False) is None

    low, high = 0.0, 1.0
    assert passes(low)
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    assert passes(low)  # which leaves its file
    _, steps = tensor.chunk(0, values.numel())
    assert steps is not None
    rounding = float(np.sqrt(np.mean(np.square(steps)) / 12))
    assert 0 < low * float(noise.std()) < rounding


@pytest.mark.parametrize(
    ("shape", "quantized", "types"),
    [
        ((64,), None, {"F32"}),
        ((64, 64), None, {"F32", "BF16"}),
        ((64, 64), "Q5_0", {"Q5_0"}),
    ],
)
def test_a_tensor_has_the_type_that_llama_cpp_gives_it(
    shape: tuple[int, ...], quantized: str | None, types: set[str]
) -> None:
    entry = Entry("x", F32, shape, 0)
    assert gguf_weights._types_of(entry, quantized, gguf_export("q4_k_m")) == types
    of_16_bits = {"F16" if each == "BF16" else each for each in types}
    assert gguf_weights._types_of(entry, quantized, gguf_export("f16")) == of_16_bits


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


WINDOWS = ["sliding_attention"] * 5 + ["full_attention"]
SHIFTED = f"attention.sliding_window_pattern is {[True] * 5 + [False]}, not {[False] + [True] * 5}"
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
        ({"final_logit_softcapping": 30.0}, {"final_logit_softcapping": 30.0}, None),
        ({"final_logit_softcapping": 30.0}, {}, "final_logit_softcapping is None, not 30.0"),
        ({}, {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0, not None"),
        ({"layer_types": WINDOWS}, {}, None),
        ({"layer_types": WINDOWS}, {"attention.sliding_window_pattern": [True] * 5 + [False]}, None),
        ({"layer_types": WINDOWS[::-1]}, {}, SHIFTED),
        ({"num_key_value_heads": 2}, {"attention.head_count_kv": 1}, "attention.head_count_kv is 1, not 2"),
        (
            {"num_key_value_heads": 2},
            {"attention.head_count_kv": [2, 2, 1]},
            "attention.head_count_kv is [2, 2, 1], not 2",
        ),
    ],
)
def test_settings_that_change_no_shape_are_compared(
    tmp_path: Path, config: dict[str, Any], written: dict[str, Any], problem: str | None
) -> None:
    path = write_metadata(tmp_path / "model.gguf", "gemma3", written)
    problems = gguf_settings.problems(contents(path).metadata, config)
    assert problems == ([] if problem is None else [f"gemma3.{problem}"])


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, None),
        ({"vision.image_mean": [0.5, 0.5, 0.25]}, "vision.image_mean of {} is [0.5, 0.5, 0.25], not [0.5, 0.5, 0.5]"),
        ({"vision.image_std": [0.25] * 3}, "vision.image_std of {} is [0.25, 0.25, 0.25], not [0.5, 0.5, 0.5]"),
        ({"vision.image_size": 224}, "vision.image_size of {} is 224, not 896"),
        ({"vision.projector.scale_factor": 2}, "vision.projector.scale_factor of {} is 2, not 4"),
        ({"vision.patch_size": 16}, "vision.patch_size of {} is 16, not 14"),
        ({"vision.attention.head_count": 4}, "vision.attention.head_count of {} is 4, not 2"),
        ({"vision.attention.layer_norm_epsilon": 0.5}, "vision.attention.layer_norm_epsilon of {} is 0.5, not 1e-06"),
        ({"projector_type": "gemma3nv"}, "projector_type of {} is gemma3nv, not gemma3"),
        ({"use_gelu": False}, "use_gelu of {} is False, not True"),
    ],
)
def test_settings_of_a_vision_tower_are_compared(tmp_path: Path, changed: dict[str, Any], problem: str | None) -> None:
    vision = {"patch_size": 14, "num_attention_heads": 2, "layer_norm_eps": 1e-6, "image_size": 896}
    path = write_metadata(tmp_path / "mmproj.gguf", "clip", TOWER | changed)
    assert projector_problems(path, vision) == ([] if problem is None else [f"clip.{problem.format(path.name)}"])


@pytest.mark.parametrize(
    ("stated", "written", "problem"),
    [
        ({"temperature": 0.5, "top_k": 64}, {"temp": 0.5, "top_k": 64}, None),
        ({"temperature": 0.5}, {}, "temp is None, not 0.5"),
        ({}, {"temp": 0.5}, "temp is 0.5, not None"),
        ({"repetition_penalty": 1.5}, {"penalty_repeat": 1.25}, "penalty_repeat is 1.25, not 1.5"),
    ],
)
def test_the_sampling_that_a_file_proposes_is_that_of_the_training(
    tmp_path: Path, stated: dict[str, Any], written: dict[str, Any], problem: str | None
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(stated))
    path = write_metadata(tmp_path / "model.gguf", "general.sampling", written)
    wrong = gguf_keys.problems(contents(path), tmp_path, ())
    assert wrong == ([] if problem is None else [f"general.sampling.{problem}"])


def test_settings_that_a_config_does_not_state_are_compared_with_those_that_transformers_takes(tmp_path: Path) -> None:
    """Real models omit most of them."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": {"hidden_size": 64}}))
    config = gguf_settings.with_defaults(json.loads((tmp_path / "config.json").read_text()), tmp_path)
    path = write_metadata(tmp_path / "model.gguf", "gemma3", {"attention.layer_norm_rms_epsilon": 1e-5})
    wrong = gguf_settings.problems(contents(path).metadata, config)
    assert "gemma3.attention.layer_norm_rms_epsilon is 9.999999747378752e-06, not 1e-06" in wrong
    assert "gemma3.embedding_length is None, not 64" in wrong


TOWER: dict[str, Any] = {
    "projector_type": "gemma3",
    "use_gelu": True,
    "has_vision_encoder": True,
    "vision.patch_size": 14,
    "vision.attention.head_count": 2,
    "vision.attention.layer_norm_epsilon": 1e-6,
    "vision.image_size": 896,
    "vision.image_mean": [0.5] * 3,
    "vision.image_std": [0.5] * 3,
}


def test_a_setting_of_a_vision_tower_that_the_model_does_not_have_is_noticed(tmp_path: Path) -> None:
    path = write_metadata(tmp_path / "mmproj.gguf", "clip", TOWER | {"vision.window_size": 112})
    vision = {"patch_size": 14, "num_attention_heads": 2, "layer_norm_eps": 1e-6, "image_size": 896}
    assert projector_problems(path, vision) == [
        "mmproj.gguf has the setting clip.vision.window_size, which the model does not"
    ]


def projector_problems(path: Path, vision: dict[str, Any] | None) -> list[str]:
    config = {"model_type": "gemma3", "vision_config": vision, "mm_tokens_per_image": 256 if vision else None}
    (path.parent / "config.json").write_text(json.dumps(config))
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if vision else {}
    (path.parent / "preprocessor_config.json").write_text(json.dumps(processor))
    return gguf_settings.projector_problems(path, path.parent)
