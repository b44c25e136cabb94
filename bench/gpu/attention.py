"""Times of the implementations of attention, for `bench.gpu`.

`python -m bench.gpu.attention DEVICE` prints one JSON object per line and kind of layer: milliseconds of a forward and
backward pass of packed rows, and the difference of results and gradients from those row by row. `chosen` is what a
training uses. flex_attention, which a training does not use, is measured on a GPU to know what it would bring.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    # Returns the attention of (1, heads, tokens, width): (1, tokens, heads, width).
    Attend = Callable[[Tensors, Sequence[int], "Kind"], torch.Tensor]

RUNS = 5
LENGTHS = {"cuda": (4096, 2048, 1024, 512, 512), "cpu": (48, 32, 16)}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of layer, with the heads of a published model.

    heads, key_heads: how many queries and keys have. head: their width. window, cap: as in `trainer.model.attention`.
    """

    heads: int
    key_heads: int
    head: int
    window: int | None = None
    cap: float | None = None


KINDS = {
    "sliding layers of Gemma 3 4B": Kind(8, 4, 256, window=1024),
    "global layers of Gemma 3 4B": Kind(8, 4, 256),
    "sliding layers of Gemma 4 E4B": Kind(8, 2, 256, window=512),
    "global layers of Gemma 4 E4B": Kind(8, 2, 512),
    "global layers of Gemma 2 9B": Kind(16, 8, 256, cap=50.0),
}


def main() -> None:
    """Measure all kinds of layers on the device of the command line."""
    import torch

    device = torch.device(sys.argv[1])
    for name, kind in KINDS.items():
        print(json.dumps({"layers": name, **_measure(kind, device)}), flush=True)


def _measure(kind: Kind, device: torch.device) -> dict[str, Any]:
    """Return the figures of all implementations, by their names."""
    import torch

    generator, lengths = torch.Generator().manual_seed(0), LENGTHS[device.type]

    def draw(heads: int) -> torch.Tensor:
        drawn = torch.randn(1, heads, sum(lengths), kind.head, generator=generator)
        return drawn.to(device, torch.bfloat16).requires_grad_()

    tensors, expected = (draw(kind.heads), draw(kind.key_heads), draw(kind.key_heads)), None
    figures: dict[str, Any] = {}
    for name, attend in _implementations(kind, device).items():
        try:
            results, seconds = _run(attend, tensors, lengths, kind)
        except Exception as error:  # of any library: the other implementations are measured all the same
            figures[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
            continue
        expected = results if expected is None else expected
        pairs = zip(results, expected, strict=True)
        difference = max(float((a - b).norm() / b.norm()) for a, b in pairs)
        figures[name] = {"ms": round(1000 * seconds, 3), "difference": round(difference, 5)}
    return figures


def _run(attend: Attend, tensors: Tensors, lengths: Sequence[int], kind: Kind) -> tuple[list[torch.Tensor], float]:
    """Return results and gradients in float32, and the median of the seconds.

    The first run is left out: kernels are compiled in it.
    """
    import torch

    times = []
    for _ in range(RUNS + 1):
        for tensor in tensors:
            tensor.grad = None
        _wait(tensors[0])
        began = time.perf_counter()
        attended = attend(tensors, lengths, kind)
        attended.backward(torch.ones_like(attended))
        _wait(tensors[0])
        times.append(time.perf_counter() - began)
    results = [attended.detach(), *(tensor.grad for tensor in tensors)]
    return [result.float() for result in results if result is not None], statistics.median(times[1:])


def _wait(tensor: torch.Tensor) -> None:
    """Wait for a GPU to finish."""
    import torch

    if tensor.is_cuda:
        torch.cuda.synchronize()


def _implementations(kind: Kind, device: torch.device) -> dict[str, Attend]:
    """Return the implementations to measure, the one to compare with first."""
    from trainer.model import row_attention
    from trainer.model.attention import flash_rows

    def by_rows(tensors: Tensors, lengths: Sequence[int], kind: Kind) -> torch.Tensor:
        return row_attention.attend_by_rows(*tensors, lengths, kind.head**-0.5, kind.window, kind.cap)

    def chosen(tensors: Tensors, lengths: Sequence[int], kind: Kind) -> torch.Tensor:
        options: dict[str, Any] = {"row_lengths": lengths, "sliding_window": kind.window, "softcap": kind.cap}
        attended, _ = row_attention.attend(torch.nn.Identity(), *tensors, None, scaling=kind.head**-0.5, **options)
        return attended

    def flash(tensors: Tensors, lengths: Sequence[int], kind: Kind) -> torch.Tensor:
        return flash_rows.attend(*tensors, lengths, kind.head**-0.5, kind.window)

    import torch

    implementations: dict[str, Attend] = {"row by row": by_rows, "chosen": chosen}
    if device.type == "cuda":
        implementations |= {} if kind.cap is not None else {"FlashAttention": flash}
        implementations["flex_attention"] = _flex_attention(kind, device)
    return implementations


def _flex_attention(kind: Kind, device: torch.device) -> Attend:
    """Return torch's flex_attention, compiled, with a mask of rows."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    lengths = LENGTHS[device.type]
    row_of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)

    def is_visible(_batch: Any, _head: Any, query: Any, key: Any) -> Any:
        visible = (row_of[query] == row_of[key]) & (query >= key)
        return visible if kind.window is None else visible & (query - key < kind.window)

    cap: Any = kind.cap

    def capped(score: Any, *_position: Any) -> Any:
        return cap * torch.tanh(score / cap)

    mask = create_block_mask(is_visible, None, None, len(row_of), len(row_of), device=str(device))
    compiled: Any = torch.compile(flex_attention)

    def attend(tensors: Tensors, lengths: Sequence[int], kind: Kind) -> torch.Tensor:
        score_mod = None if kind.cap is None else capped
        options: dict[str, Any] = {"block_mask": mask, "score_mod": score_mod, "scale": kind.head**-0.5}
        attended: torch.Tensor = compiled(*tensors, **options, enable_gqa=True)
        return attended.transpose(1, 2)

    return attend


if __name__ == "__main__":
    main()
