"""Benchmark of a training step's memory, compared with the estimate.

`python -m bench.memory` runs the step that the trainer runs on a GPU (with its attention, loss head and adapter,
without `trainer.model.on_cpu`, which keeps less), but on the CPU, and compares it with `gemtune.machines.memory`.
Models have the widths of real ones, few layers and a small vocabulary, as the memory of a layer does not depend on
their number. Every storage that the step allocates is counted while it lives, so the results hold for a GPU too, except
for memory inside kernels.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gemtune.families.generation import LINEAR_LAYERS
from gemtune.families.size import SIGLIP, ModelSize, Tower
from gemtune.machines import memory, model_size
from gemtune.machines.memory import TrainingLoad
from gemtune.methods import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer.base_model.language_model import LanguageModel

MIB = 1024 * 1024
# Models whose widths are measured. A few layers and vocabulary entries suffice, as memory is proportional to them.
MODELS = (
    "gemma-3-270m",
    "gemma-3-1b",
    "gemma-2-2b",
    "gemma-3-4b",
    "gemma-4-e2b",
    "gemma-4-e4b",
    "gemma-4-12b",
    "gemma-4-26b",
)
LAYERS, VOCABULARY = 3, 8192
# Experts of a mixture that are built. The memory of a token depends on those that read it, which are fewer.
EXPERTS = 16
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)
# Numbers of an attention head: of all models here, and of the global layers of Gemma 4.
HEAD, GLOBAL_HEAD = 256, 512


class Live(TorchDispatchMode):
    """Counter of the bytes of live storages that operations have allocated."""

    def __init__(self, before: Iterable[torch.Tensor]):
        """Count everything but the storages of `before`.

        Operations may return views of those, which must not be counted.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._storages: dict[int, weakref.finalize[Any, torch.UntypedStorage] | None] = {
            tensor.untyped_storage()._cdata: None for tensor in before
        }

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = _run(func, args, kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._storages:
            return
        size = storage.nbytes()
        self._storages[key] = weakref.finalize(storage, self._gone, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int, size: int) -> None:
        self._storages.pop(key, None)
        self.now -= size


def _run(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation, but a product of bfloat16 in float32.

    Processors without arithmetic in 16 bits compute it many times faster so. Its result has the same size.
    """
    if func in PRODUCTS and all(tensor.dtype == torch.bfloat16 for tensor in args):
        return func(*(tensor.float() for tensor in args), **kwargs).bfloat16()
    return func(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Measurement:
    """MiB of one forward and backward pass, counted and estimated."""

    model: str
    checkpointing: bool
    rows: int
    length: int
    counted: float
    estimated: float


def measure(
    name: str, *, rows: int, length: int, checkpointing: bool, method: Method = "LoRA", rank: int = 16
) -> Measurement:
    """Measure a step's work memory in a small model with a model's widths."""
    full_size = model_size.by_name(name)
    assert full_size is not None
    settings: dict[str, Any] = {"rows": rows, "length": length, "method": method, "rank": rank}
    return measure_size(name, cut(full_size), checkpointing=checkpointing, **settings)


def measure_size(
    name: str,
    size: ModelSize,
    *,
    rows: int,
    length: int,
    checkpointing: bool,
    method: Method = "LoRA",
    rank: int = 16,
) -> Measurement:
    """Measure a step's work memory in a model of a size.

    name: of its generation.
    """
    model = _model(name, size, method, rank)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    with _allocated_gradients(model):
        counted = _step(model, rows, length)
    load = TrainingLoad(method, rows, length, rank, "text")
    estimated = memory.work_bytes(size, load, checkpointing=checkpointing)
    return Measurement(name, checkpointing, rows, length, counted / MIB, estimated / MIB)


def cut(size: ModelSize) -> ModelSize:
    """Return a size with a few layers of the same shapes.

    It has one layer of each shape if the model has several.
    """
    first = size.with_first_layers(LAYERS).shapes
    shapes = first if len(size.shapes) == 1 else tuple(replace(shape, count=1) for shape in size.shapes)
    experts = None if size.experts is None else replace(size.experts, count=min(EXPERTS, size.experts.count))
    return replace(size, shapes=shapes, vocabulary=VOCABULARY, experts=experts)


def _step(model: LanguageModel, rows: int, length: int) -> int:
    """Run a forward and backward pass; return its peak of additional bytes."""
    from trainer.model.hidden_states import head_inputs
    from trainer.model.loss_head import cross_entropy_sum
    from trainer.training import batches

    tokens = [[(7 * position + row) % 1000 + 4 for position in range(length)] for row in range(rows)]
    batch = batches.flatten_rows([[{"input_ids": row, "labels": row}] for row in tokens])
    before = [*_stored(model), *(value for value in batch.values() if isinstance(value, torch.Tensor))]
    live = Live(before)
    with live:
        inputs = head_inputs(model, batch, torch.bfloat16)
        loss = cross_entropy_sum(inputs.hidden, inputs.head, inputs.targets, soft_cap=inputs.soft_cap)
        loss.backward()
    return live.peak


def measure_tower(tower: Tower, *, rank: int = 16) -> float:
    """Return the bytes of a pass of Gemma 3's vision tower.

    It trains an adapter. tower: its dimensions; patches is a square number.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from trainer.training.sft import disable_input_casts

    side = 14 * math.isqrt(tower.patches)
    config = SiglipVisionConfig(
        hidden_size=tower.hidden,
        intermediate_size=tower.intermediate,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.hidden // 72,
        image_size=side,
        patch_size=14,
        vision_use_head=False,
    )
    layers = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    model = get_peft_model(
        SiglipVisionModel(config).bfloat16(), LoraConfig(r=rank, lora_dropout=0.05, target_modules=layers)
    )
    disable_input_casts(model)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    model.train()
    picture = torch.zeros(1, 3, side, side, dtype=torch.bfloat16)
    with _allocated_gradients(model):
        live = Live([picture, *_stored(model)])
        with live, torch.autocast("cpu", torch.bfloat16):
            model(pixel_values=picture).last_hidden_state.float().sum().backward()
    return live.peak


def _stored(model: LanguageModel) -> list[torch.Tensor]:
    """Return the tensors of a model, with its gradients."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [*model.parameters(), *model.buffers(), *gradients]


@contextmanager
def _allocated_gradients(model: LanguageModel) -> Iterator[None]:
    """Allocate the gradients before the pass.

    The estimate has them in another part, which is exact.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    yield


def _model(name: str, size: ModelSize, method: Method, rank: int) -> LanguageModel:
    from peft import LoraConfig, get_peft_model

    from trainer.model import row_attention
    from trainer.training.sft import disable_input_casts

    row_attention.register()
    model: PreTrainedModel = _gemma4(size) if "gemma-4" in name else _gemma2_or_3(name, size)
    if method == "Full":
        return model
    experts = None if size.experts is None else ["experts.gate_up_proj", "experts.down_proj"]
    dropout = 0.05 if experts is None else 0.0  # PEFT adapts parameters without dropout only
    lora = LoraConfig(r=rank, lora_dropout=dropout, target_modules=list(LINEAR_LAYERS), target_parameters=experts)
    adapted = get_peft_model(model.bfloat16(), lora)
    disable_input_casts(adapted)
    return adapted


def _gemma2_or_3(name: str, size: ModelSize) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

    from trainer.model import row_attention

    settings: dict[str, Any] = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.attention // HEAD,
        "num_key_value_heads": size.key_value // HEAD,
        "head_dim": HEAD,
        "attn_implementation": row_attention.NAME,
    }
    if "gemma-2" in name:
        return Gemma2ForCausalLM(Gemma2Config(**settings))
    return Gemma3ForCausalLM(Gemma3TextConfig(**settings))


def _gemma4(size: ModelSize) -> Any:
    """Return a Gemma 4 with one layer of each shape of a size.

    Sliding layers have heads of 256 numbers, global ones of 512.
    """
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig

    from trainer.model import row_attention

    sliding, full = size.shapes[0], size.shapes[1]
    settings: dict[str, Any] = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": sliding.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": sliding.attention // HEAD,
        "num_key_value_heads": sliding.key_value // HEAD,
        "head_dim": HEAD,
        "global_head_dim": GLOBAL_HEAD,
        "num_global_key_value_heads": full.key_value // GLOBAL_HEAD,
        "attention_k_eq_v": full.one_projection,
        "layer_types": ["sliding_attention", "full_attention"] * (size.layers // 2),
        "num_kv_shared_layers": sum(shape.key_value == 0 for shape in size.shapes),
        "use_double_wide_mlp": size.shapes[-1].intermediate > sliding.intermediate,
        "hidden_size_per_layer_input": size.per_layer_input,
        "vocab_size_per_layer_input": size.vocabulary,
        "attn_implementation": row_attention.NAME,
    }
    if size.experts is not None:
        settings |= {
            "enable_moe_block": True,
            "num_experts": size.experts.count,
            "top_k_experts": size.experts.per_token,
            "moe_intermediate_size": size.experts.intermediate,
        }
    return Gemma4ForCausalLM(Gemma4TextConfig(**settings))


def main() -> None:
    """Print a row for each model, with and without gradient checkpointing.

    Then the memory of a vision tower's patch, in two layers.
    """
    print("| widths of | checkpointing | rows | tokens per row | counted MiB | estimated MiB | estimated / counted |")
    print("|---|---|---|---|---|---|---|")
    for name in MODELS:
        for checkpointing in (True, False):
            for rows, length in ((1, 256), (2, 256), (1, 1024)):
                result = measure(name, rows=rows, length=length, checkpointing=checkpointing)
                print(
                    f"| {name} | {checkpointing} | {rows} | {length} | {result.counted:.0f} | {result.estimated:.0f} "
                    f"| {result.estimated / result.counted:.2f} |",
                    flush=True,
                )
    tower = replace(SIGLIP, layers=2, patches=256)
    print(f"\nvision tower: {measure_tower(tower) / tower.patches / 1000:.0f} KB per patch")


if __name__ == "__main__":
    main()
