"""Benchmark of a training step's memory, compared with the estimate.

`python -m bench.memory` runs the step that the trainer runs on a GPU (with its attention, loss head and adapter,
without `trainer.model.on_cpu`, which keeps less), but on the CPU, and compares it with `gemtune.machines.memory`.
Models have the widths of real ones, few layers and a small vocabulary, as the memory of a layer does not depend on
their number. Every storage that the step allocates is counted while it lives, so the results hold for a GPU too, except
for memory inside kernels.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gemtune.families.size import ModelSize
from gemtune.machines import memory, model_size
from gemtune.machines.memory import TrainingLoad
from gemtune.methods import Method

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel

MIB = 1024 * 1024
# Models whose widths are measured. A few layers and vocabulary entries suffice, as memory is proportional to them.
MODELS = ("gemma-3-270m", "gemma-3-1b", "gemma-2-2b", "gemma-3-4b")
LAYERS, VOCABULARY = 3, 8192


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
        result = func(*args, **(kwargs or {}))
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
    size = replace(full_size.with_first_layers(LAYERS), vocabulary=VOCABULARY)
    model = _model(name, size, method, rank)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    with _small_gradients(model):
        counted = _step(model, rows, length)
    load = TrainingLoad(method, rows, length, rank, "text")
    estimated = memory.work_bytes(size, load, checkpointing=checkpointing)
    return Measurement(name, checkpointing, rows, length, counted / MIB, estimated / MIB)


def _step(model: LanguageModel, rows: int, length: int) -> int:
    """Run a forward and backward pass; return its peak of additional bytes."""
    from trainer.model.hidden_states import head_inputs
    from trainer.model.loss_head import cross_entropy_sum
    from trainer.training import batches

    tokens = [[(7 * position + row) % 1000 + 4 for position in range(length)] for row in range(rows)]
    batch = batches.flatten_rows([[{"input_ids": row, "labels": row}] for row in tokens])
    before = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    before += [value for value in batch.values() if isinstance(value, torch.Tensor)]
    live = Live(before)
    with live:
        inputs = head_inputs(model, batch, torch.bfloat16)
        loss = cross_entropy_sum(inputs.hidden, inputs.head, inputs.targets, soft_cap=inputs.soft_cap)
        loss.backward()
    return live.peak


@contextmanager
def _small_gradients(model: LanguageModel) -> Iterator[None]:
    """Allocate the gradients before the pass.

    The estimate has them in another part, which is exact.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    yield


def _model(name: str, size: ModelSize, method: Method, rank: int) -> LanguageModel:
    from peft import LoraConfig, get_peft_model
    from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

    from trainer.model import row_attention
    from trainer.training.sft import disable_input_casts

    row_attention.register()
    head = 256
    settings: dict[str, Any] = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.attention // head,
        "num_key_value_heads": size.key_value // head,
        "head_dim": head,
        "attn_implementation": row_attention.NAME,
    }
    is_gemma2 = "gemma-2" in name
    model = (
        Gemma2ForCausalLM(Gemma2Config(**settings)) if is_gemma2 else Gemma3ForCausalLM(Gemma3TextConfig(**settings))
    )
    if method == "Full":
        return model
    lora = LoraConfig(r=rank, lora_dropout=0.05, target_modules="all-linear")
    adapted = get_peft_model(model.bfloat16(), lora)
    disable_input_casts(adapted)
    return adapted


def main() -> None:
    """Print a row for each model, with and without gradient checkpointing."""
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


if __name__ == "__main__":
    main()
