"""Memory estimates of gemtune.machines.memory, compared with measurements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.memory import MODELS, measure, measure_size, measure_tower
from gemtune.families.size import Experts, Layers, ModelSize, Tower
from gemtune.machines import memory, model_size
from gemtune.machines.memory import TrainingLoad
from trainer.model import gradient_checkpointing


@pytest.mark.parametrize(("name", "checkpointing"), [(MODELS[0], True), (MODELS[0], False), (MODELS[1], True)])
def test_a_train_step_allocates_at_most_the_estimate_and_not_far_less(name: str, checkpointing: bool) -> None:
    measured = measure(name, rows=2, length=48, checkpointing=checkpointing)
    assert 1 <= measured.estimated / measured.counted <= 1.6


def test_working_memory_grows_with_the_tokens_of_any_rows() -> None:
    one, two, long = (measure(MODELS[0], rows=r, length=n, checkpointing=True) for r, n in ((1, 32), (2, 32), (1, 64)))
    assert two.counted == pytest.approx(2 * one.counted, rel=0.1)
    assert long.counted == pytest.approx(two.counted, rel=0.05)
    assert two.estimated == pytest.approx(2 * one.estimated, rel=0.01)


# Sizes with the shapes of Gemma 4's E2B and 26B, a quarter as wide.
QUARTERS = {
    "gemma-4-e2b": ModelSize(
        10**8,
        384,
        (Layers(1, 1536, 512, 256), Layers(1, 1536, 1024, 512), Layers(1, 3072, 512, 0), Layers(1, 3072, 1024, 0)),
        1024,
        per_layer_input=256,
    ),
    "gemma-4-26b": ModelSize(
        10**8,
        704,
        (Layers(1, 528, 1024, 512), Layers(1, 528, 2048, 512, one_projection=True)),
        1024,
        experts=Experts(16, 176, 8),
    ),
}


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("name", QUARTERS)
def test_the_working_memory_of_gemma_4_is_estimated_within_15_percent(name: str, checkpointing: bool) -> None:
    size = QUARTERS[name]
    short, long = (
        measure_size(name, size, rows=1, length=length, checkpointing=checkpointing) for length in (128, 512)
    )
    slope = (long.estimated - short.estimated) / (long.counted - short.counted) / memory.WORK_MARGIN
    assert slope == pytest.approx(1, abs=0.15)
    assert long.estimated / memory.WORK_MARGIN == pytest.approx(long.counted, rel=0.15)


def test_a_trained_vision_tower_is_estimated_within_15_percent() -> None:
    small, large = (Tower(3, 288, 1076, patches) for patches in (256, 576))
    load = TrainingLoad("LoRA", 32, 64, 16, "vision", train_tower=True)  # more than the minimum for a tower
    counted = (measure_tower(large) - measure_tower(small)) / (large.patches - small.patches)
    wide = [replace(tower, patches=1000 * tower.patches) for tower in (small, large)]
    estimated = (memory.tower_bytes(wide[1], load) - memory.tower_bytes(wide[0], load)) / (32 * 320_000)
    assert estimated / memory.WORK_MARGIN == pytest.approx(counted, rel=0.15)


def test_only_a_tower_that_is_there_needs_memory() -> None:
    frozen = TrainingLoad("LoRA", 1, 512, 16, "vision")
    for name, patches in (("gemma-3-4b", 4096), ("gemma-4-e4b", 2520), ("gemma-4-12b", 0)):
        size = model_size.by_name(name)
        assert size is not None
        assert size.tower.patches == patches
        text, pictures, trained = (
            memory.memory_for_training(size, load)
            for load in (replace(frozen, modality="text"), frozen, replace(frozen, train_tower=True, batch_size=16))
        )
        of_tower = pictures.gpu - text.gpu
        assert of_tower == pytest.approx(0 if patches == 0 else memory.VISION_GIB)
        batch = memory.memory_for_training(size, replace(frozen, batch_size=16))
        assert (trained.gpu > batch.gpu) is (patches > 0)


@pytest.mark.parametrize("name", ["gemma-2b", "gemma-2-2b", "gemma-3-270m", "gemma-3-1b"])
def test_known_models_have_the_parameters_that_transformers_counts(name: str) -> None:
    import transformers

    size = model_size.by_name(name)
    assert size is not None
    kinds = {"gemma-2b": "Gemma", "gemma-2-2b": "Gemma2"}
    kind = kinds.get(name, "Gemma3")
    config = getattr(transformers, f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config")(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.attention // 256,
        num_key_value_heads=size.key_value // 256,
        head_dim=256,
    )
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
    model.tie_weights()
    assert sum(parameter.numel() for parameter in model.parameters()) == size.parameters
    linear = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    assert sum(16 * (m.in_features + m.out_features) for m in linear) == size.lora_parameters(16)


# Beginnings of bitsandbytes' names for moments and their scales.
MOMENTS = ("state", "absma")


def test_a_trained_parameter_takes_the_documented_bytes() -> None:
    weights = torch.nn.Parameter(torch.ones(1000))
    optimizer = torch.optim.AdamW([weights], fused=True)
    weights.grad = torch.ones(1000)
    optimizer.step()
    moments = [value for value in optimizer.state[weights].values() if value.numel() > 1]
    for tensors, bytes_each in (
        ([weights], memory.VALUE_BYTES),
        ([weights.grad], memory.GRADIENT_BYTES),
        (moments, memory.MOMENT_BYTES),
    ):
        assert sum(t.numel() * t.element_size() for t in tensors) == 1000 * bytes_each


def test_the_moments_of_full_fine_tuning_on_a_gpu_take_the_estimated_bytes(tiny: Path) -> None:
    """Make transformers' 8-bit AdamW, which leaves embeddings in 32 bits.

    bitsandbytes keeps moments of small tensors in 32 bits too, which no published model has many of.
    """
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    arguments = transformers.TrainingArguments(optim="adamw_bnb_8bit", output_dir="unused", use_cpu=True, report_to=[])
    optimizer = transformers.Trainer(model=model, args=arguments).create_optimizer()
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    table = model.get_input_embeddings().weight
    sizes = {True: [0, 0.0], False: [0, 0.0]}  # whether embedding -> [bytes, estimated bytes]
    for weight, state in optimizer.state.items():
        if weight.numel() < 4096:
            continue
        of_kind = sizes[weight is table]
        of_kind[0] += sum(state[name].numel() * state[name].element_size() for name in state if name[:5] in MOMENTS)
        of_kind[1] += weight.numel() * (memory.MOMENT_BYTES if weight is table else memory.MOMENT_BYTES_IN_8_BITS)
    for counted, estimated in sizes.values():
        assert counted > 0
        assert counted == pytest.approx(estimated, rel=0.01)


def test_a_4_bit_parameter_takes_the_documented_bytes() -> None:
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(torch.randn(1024, 1024), quant_type="nf4", compress_statistics=True, blocksize=64)
    tensors = [packed, state.absmax, state.state2.absmax]
    assert sum(t.numel() * t.element_size() for t in tensors) == pytest.approx(1024**2 * memory.NF4_BYTES, rel=0.01)


def test_the_size_of_a_model_folder_matches_its_files(tiny: Path) -> None:
    import json

    weights = sum(path.stat().st_size for path in tiny.glob("*.safetensors"))
    size = model_size.of_folder(json.loads((tiny / "config.json").read_text()), weights)
    from safetensors import safe_open

    with safe_open(tiny / "model.safetensors", framework="pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.offset_keys())
    assert size.parameters == pytest.approx(stored, rel=0.05)  # the file also contains a header
    assert size.file_bytes == pytest.approx(weights, abs=4)


def test_products_are_saved_for_backward_only_if_the_gpu_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = gradient_checkpointing.LayerWidths(
        hidden=2560, intermediate=10240, queries=8 * 256, keys=4 * 256, heads=8, norms=4, normed_heads=True
    )
    monkeypatch.setattr(gradient_checkpointing, "layer_widths", lambda model: [widths] * 34)
    model = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, modules=lambda: iter(()))
    bytes_per_token = 34 * 2 * (3 * 2560 + 2 * 10240 + 2 * 12 * 256)
    free = 13 * 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    most_tokens = int(0.6 * free) // bytes_per_token
    saving_products = {"use_reentrant": False, "context_fn": gradient_checkpointing.keep_products}
    assert gradient_checkpointing.checkpointing_kwargs(model, most_tokens) == saving_products
    assert gradient_checkpointing.checkpointing_kwargs(model, most_tokens + 1) == {"use_reentrant": False}
