"""The implementation of attention for each kind of decoder layer.

IMPLEMENTATIONS is ordered by speed. The first one that computes a kind of layer correctly on the device is chosen. Each
entry says what it cannot compute; these limits are those of the pinned versions:

- FlashAttention: `torch.nn.attention.varlen` has a window and key heads for several queries, and neither a soft cap nor
  dropout. Its kernels need compute capability 8.0, 16 bits and heads of at most 256 values in steps of 8
  (aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp). Global layers of Gemma 4 have heads of 512
  (Dao-AILab/flash-attention#2427).
- `scaled_dot_product_attention`: has no soft cap. For heads of 512 on a GPU it takes its memory-efficient kernel, which
  has no limit.
- transformers' `sdpa`: the same, with masks for padding and for the blocks of pictures. Its FlashAttention 2 would drop
  these blocks, and Gemma 3 and 4 refuse it for models with pictures.

flex_attention could cap scores and have masks, too, and is not in the table: its default backward kernel needs more
shared memory for heads of 256 than an L4 (pytorch#180278) or an RTX PRO 6000 (pytorch#198224) has, and elsewhere its
speed is not known here; `bench.gpu` measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Name = Literal["flash_rows", "fused_rows", "sdpa_rows", "full_rows", "sdpa_masked", "eager_masked"]
FLASH_CAPABILITY, FLASH_MOST_HEAD, FLASH_HEAD_STEP = (8, 0), 256, 8


@dataclass(frozen=True, slots=True)
class Layers:
    """Decoder layers that compute attention in the same way.

    head: width of a head. window: the tokens that a token sees, itself included; None: all before it. cap: of scores,
    as in Gemma 2. dropout: of attention weights.
    """

    head: int
    window: int | None = None
    cap: float | None = None
    dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class Situation:
    """The device and the batches that attention is computed for.

    device: "cuda", "cpu" or another type of torch. capability: CUDA's compute capability of the GPU, such as (8, 9).
    bits: of the numbers that it computes with. is_packed: whether rows are concatenated; else they are padded.
    is_fused: whether gemtune's own layers for a CPU are installed. flash_refusal: why FlashAttention failed its
    comparison with the formula on this GPU; None if it passed.
    """

    device: str
    capability: tuple[int, int] | None = None
    bits: int = 32
    is_packed: bool = True
    is_fused: bool = False
    flash_refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Implementation:
    """A way to compute attention.

    title: what a user reads. device: the only type of device that it is for; None for all. limit: returns why it
    cannot compute some layers in a situation; None if it can.
    """

    name: Name
    title: str
    device: str | None
    limit: Callable[[Layers, Situation], str | None]


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen implementation, and why faster ones were not chosen."""

    implementation: Implementation
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        because = f", because {'; and because '.join(self.reasons)}" if self.reasons else ""
        return f"{self.implementation.title}{because}"


def choose(layers: Layers, situation: Situation) -> Choice:
    """Return the fastest implementation that is correct."""
    reasons: dict[str, None] = {}
    for implementation in IMPLEMENTATIONS:
        if implementation.device not in (None, situation.device):
            continue
        limit = implementation.limit(layers, situation)
        if limit is None:
            return Choice(implementation, tuple(reasons))
        reasons[limit] = None
    raise AssertionError("the last implementation has no limit")


def _limit_of_flash(layers: Layers, situation: Situation) -> str | None:
    if not situation.is_packed:
        return _PADDED
    if layers.cap is not None:
        return _CAPPED
    if situation.capability is None or situation.capability < FLASH_CAPABILITY:
        needed = ".".join(map(str, FLASH_CAPABILITY))
        return f"FlashAttention needs a GPU of compute capability {needed} or later"
    if situation.bits != 16:
        return f"FlashAttention computes in 16 bits, and this training in {situation.bits}"
    if layers.head > FLASH_MOST_HEAD or layers.head % FLASH_HEAD_STEP:
        return f"FlashAttention has heads of at most {FLASH_MOST_HEAD} values, in steps of {FLASH_HEAD_STEP}"
    if layers.dropout:
        return "PyTorch's FlashAttention has no dropout for rows of different lengths"
    return situation.flash_refusal


def _limit_of_fused(layers: Layers, situation: Situation) -> str | None:
    if not situation.is_packed:
        return _PADDED
    if layers.cap is not None:
        return _CAPPED
    if not situation.is_fused:
        return "gemtune's own for a CPU is for adapters of Gemma 1, 2 and 3"
    return "gemtune's own for a CPU has no dropout of attention weights" if layers.dropout else None


def _limit_of_sdpa_rows(layers: Layers, situation: Situation) -> str | None:
    return _PADDED if not situation.is_packed else _limit_of_sdpa(layers, situation)


def _limit_of_full_rows(_: Layers, situation: Situation) -> str | None:
    return None if situation.is_packed else _PADDED


def _limit_of_sdpa(layers: Layers, _: Situation) -> str | None:
    return None if layers.cap is None else _CAPPED


_PADDED = "rows with pictures or audio, and those of RL and unsloth, are padded and need masks"
_CAPPED = "no faster implementation caps scores"
IMPLEMENTATIONS: tuple[Implementation, ...] = (
    Implementation("flash_rows", "FlashAttention, all rows in one call", "cuda", _limit_of_flash),
    Implementation(
        "fused_rows", "gemtune's own for a CPU, and PyTorch's for rows longer than the window", "cpu", _limit_of_fused
    ),
    Implementation("sdpa_rows", "PyTorch's scaled_dot_product_attention, row by row", None, _limit_of_sdpa_rows),
    Implementation("full_rows", "all scores in full, row by row", None, _limit_of_full_rows),
    Implementation("sdpa_masked", "PyTorch's scaled_dot_product_attention, with masks", None, _limit_of_sdpa),
    Implementation("eager_masked", "all scores in full, with masks", None, lambda *_: None),
)
# transformers' names of its own ones.
MASKED: Mapping[Name, str] = {"sdpa_masked": "sdpa", "eager_masked": "eager"}
