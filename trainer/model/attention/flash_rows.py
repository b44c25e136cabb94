"""FlashAttention of concatenated rows, with the kernels that PyTorch contains.

FlashAttention-2 (Dao, arXiv:2307.08691) reads and writes no scores, leaves out what a sliding window hides, and takes
rows of different lengths in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache

import torch

from trainer.model.attention.choice import Layers, Situation, choose

# The comparison with the formula: rows with and without tokens outside the window. In bfloat16, results and gradients
# differ from those in float64 by about half a percent; with a window of one token more or less by over 3%.
CHECKED_LENGTHS, CHECKED_WINDOW, MOST_DIFFERENCE = (5, 3, 150), 64, 0.02


def is_chosen(query: torch.Tensor, layers: Layers) -> bool:
    """Return whether it computes such layers.

    query: (1, heads, tokens, width), on a GPU.
    """
    return _is_chosen(layers, computed_in(query), query.device)


def computed_in(query: torch.Tensor) -> torch.dtype:
    """Return the type that autocast gives to attention, else that of query."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


def situation_of(device: torch.device, dtype: torch.dtype, layers: Layers) -> Situation:
    """Return the situation of packed rows on a GPU, after the comparison."""
    situation = Situation("cuda", torch.cuda.get_device_capability(device), 8 * dtype.itemsize)
    if choose(layers, situation).implementation.name != "flash_rows":
        return situation
    return replace(situation, flash_refusal=refusal(layers.head, layers.window is not None, dtype, device))


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row_lengths: Sequence[int],
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    """Return the causal attention of each row to itself.

    query: (1, heads, tokens, width). key, value: (1, key heads, tokens, width). window: as in `Layers`. Returns (1,
    tokens, heads, width) in the type of `computed_in`.
    """
    from torch.nn.attention.varlen import varlen_attn

    dtype, longest = computed_in(query), max(row_lengths)
    ends = _ends(tuple(row_lengths), query.device)
    query, key, value = (tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value))
    # FlashAttention counts the tokens before a token. A window that hides nothing would cost a slower kernel.
    before = -1 if window is None or longest <= window else window - 1
    attended = varlen_attn(
        query, key, value, ends, ends, longest, longest, scale=scaling, window_size=(before, 0), enable_gqa=True
    )
    assert isinstance(attended, torch.Tensor), "nothing else was asked for"
    return attended.unsqueeze(0)


@lru_cache(maxsize=8)
def _ends(row_lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return where rows end, (rows + 1,), int32, beginning with 0.

    All layers of a forward pass, and its backward pass, have the same.
    """
    return torch.tensor([0, *row_lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)


@lru_cache(maxsize=64)
def _is_chosen(layers: Layers, dtype: torch.dtype, device: torch.device) -> bool:
    return choose(layers, situation_of(device, dtype, layers)).implementation.name == "flash_rows"


@lru_cache(maxsize=64)
def refusal(head: int, is_sliding: bool, dtype: torch.dtype, device: torch.device) -> str | None:
    """Compare results and gradients with the formula's on a device.

    Returns why FlashAttention is not used there; None if they agree. It computes in a thread of its own: modes of the
    forward pass that asks, such as checkpointing, which records and repeats operations, are those of its thread.
    """
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:
            difference = thread.submit(relative_difference, head, is_sliding, dtype, device).result()
    except (ImportError, NotImplementedError, RuntimeError, TypeError) as error:  # of other versions of torch, or GPUs
        return f"FlashAttention fails on this GPU ({str(error).partition(chr(10))[0][:200]})"
    if difference <= MOST_DIFFERENCE:
        return None
    return f"FlashAttention's results differ by {difference:.1%} from the formula's on this GPU"


def relative_difference(head: int, is_sliding: bool, dtype: torch.dtype, device: torch.device) -> float:
    """Return the largest difference from the formula's results and gradients.

    It is relative to the norm of each of them: the output, and the gradients of query, key and value.
    """
    generator, window = torch.Generator().manual_seed(0), CHECKED_WINDOW if is_sliding else None
    tokens = sum(CHECKED_LENGTHS)

    def draw(heads: int) -> torch.Tensor:
        return torch.randn(1, heads, tokens, head, generator=generator).to(dtype)

    tensors, weights = [draw(4), draw(2), draw(2)], draw(4).transpose(1, 2)
    ours = [tensor.to(device, copy=True).requires_grad_() for tensor in tensors]
    attended = attend(ours[0], ours[1], ours[2], CHECKED_LENGTHS, head**-0.5, window)
    (attended * weights.to(device)).sum().backward()
    exact = [tensor.double().requires_grad_() for tensor in tensors]
    expected = by_formula(exact[0], exact[1], exact[2], CHECKED_LENGTHS, head**-0.5, window)
    (expected * weights).sum().backward()
    results = [attended.detach(), *(tensor.grad for tensor in ours)]
    pairs = zip(results, [expected.detach(), *(tensor.grad for tensor in exact)], strict=True)
    return max(_relative(a, b) for a, b in pairs if a is not None and b is not None)


def _relative(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result.cpu().double() - expected).norm() / expected.norm())


def by_formula(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row_lengths: Sequence[int],
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    """Return what `attend` does, by one softmax over the scores of all tokens."""
    row_of = torch.repeat_interleave(torch.arange(len(row_lengths)), torch.tensor(row_lengths))
    visible = (row_of[:, None] == row_of).tril().triu(1 - window if window is not None else -len(row_of))
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~visible, -torch.inf)
    return (scores.softmax(dim=-1) @ value).transpose(1, 2)
