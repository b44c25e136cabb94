"""`python -m bench.memory`: how much memory a training step allocates, beside the estimate of `machines/memory.py`.

The step is what the trainer does on a GPU (its attention, loss head and adapter; not `trainer.model.on_cpu`, which
keeps less), but on the CPU, with the widths of real models, few layers and a small vocabulary: what a layer costs
does not depend on how many there are. Every storage that a step makes is counted while it lives, so the figures hold
for a GPU too, except for what kernels use inside.
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
# Names whose widths are tried; the number of layers and of vocabulary entries that are enough to tell their share.
MODELS = ("gemma-3-270m", "gemma-3-1b", "gemma-2-2b", "gemma-3-4b")
LAYERS, VOCABULARY = 3, 8192


class Live(TorchDispatchMode):
    """Counts the bytes of storages that operations make, while they live."""

    def __init__(self, before: Iterable[torch.Tensor]):
        """`before`: what is there already, and does not count; operations return views of it."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: dict[int, weakref.finalize[Any, torch.UntypedStorage] | None] = {
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
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen[key] = weakref.finalize(storage, self._gone, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int, size: int) -> None:
        self._seen.pop(key, None)
        self.now -= size


@dataclass(frozen=True, slots=True)
class Measured:
    """MiB of one forward and backward pass: what was counted, and what memory.py reckons for the same."""

    model: str
    checkpointing: bool
    rows: int
    length: int
    counted: float
    reckoned: float


def measure(
    name: str, *, rows: int, length: int, checkpointing: bool, method: Method = "LoRA", rank: int = 16
) -> Measured:
    """The work memory of a step of a small model with this one's widths."""
    known = model_size.by_name(name)
    assert known is not None
    size = replace(known.with_first_layers(LAYERS), vocabulary=VOCABULARY)
    model = _model(name, size, method, rank)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    with _small_gradients(model):
        counted = _step(model, rows, length)
    load = TrainingLoad(method, rows, length, rank, "text")
    reckoned = memory.work_bytes(size, load, checkpointing=checkpointing)
    return Measured(name, checkpointing, rows, length, counted / MIB, reckoned / MIB)


def _step(model: LanguageModel, rows: int, length: int) -> int:
    """Bytes at the peak of a pass, above what was there before it."""
    from trainer.model.hidden_states import head_inputs
    from trainer.model.loss_head import cross_entropy_sum
    from trainer.training import batches

    tokens = [[(7 * position + row) % 1000 + 4 for position in range(length)] for row in range(rows)]
    batch = batches.flatten_rows([[{"input_ids": row, "labels": row}] for row in tokens])
    before = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    before += [value for value in batch.values() if isinstance(value, torch.Tensor)]
    live = Live(before)
    with live:
        found = head_inputs(model, batch, torch.bfloat16)
        loss = cross_entropy_sum(found.hidden, found.head, found.targets, soft_cap=found.soft_cap)
        loss.backward()
    return live.peak


@contextmanager
def _small_gradients(model: LanguageModel) -> Iterator[None]:
    """Gradients belong to what is counted exactly, so they are made before."""
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
    how: dict[str, Any] = {
        "vocab_size": size.vocabulary, "hidden_size": size.hidden, "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers, "num_attention_heads": size.attention // head,
        "num_key_value_heads": size.key_value // head, "head_dim": head, "attn_implementation": row_attention.NAME,
    }  # fmt: skip
    second = "gemma-2" in name
    model = Gemma2ForCausalLM(Gemma2Config(**how)) if second else Gemma3ForCausalLM(Gemma3TextConfig(**how))
    if method == "Full":
        return model
    lora = LoraConfig(r=rank, lora_dropout=0.05, target_modules="all-linear")
    adapted = get_peft_model(model.bfloat16(), lora)
    disable_input_casts(adapted)
    return adapted


def main() -> None:
    print("| widths of | checkpointing | rows | tokens a row | counted MiB | reckoned MiB | reckoned / counted |")
    print("|---|---|---|---|---|---|---|")
    for name in MODELS:
        for checkpointing in (True, False):
            for rows, length in ((1, 256), (2, 256), (1, 1024)):
                found = measure(name, rows=rows, length=length, checkpointing=checkpointing)
                print(
                    f"| {name} | {checkpointing} | {rows} | {length} | {found.counted:.0f} | {found.reckoned:.0f} "
                    f"| {found.reckoned / found.counted:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
