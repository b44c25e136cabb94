"""Gemma's layers as protocols, of all generations.

They type the functions that replace the forwards of transformers' layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeGuard

if TYPE_CHECKING:
    import torch

Forward: TypeAlias = "Callable[..., torch.Tensor]"


class Norm(Protocol):
    """Gemma's RMSNorm. weight: (width,)."""

    weight: torch.Tensor
    eps: float


class GatedUnit(Protocol):
    """Gemma's MLP."""

    gate_proj: torch.nn.Module
    up_proj: torch.nn.Module
    down_proj: Forward


class Attention(Protocol):
    """Gemma's attention."""

    is_causal: bool
    attention_dropout: float
    head_dim: int
    scaling: float
    q_proj: torch.nn.Module
    k_proj: torch.nn.Module
    v_proj: torch.nn.Module
    o_proj: Forward


class NormedAttention(Attention, Protocol):
    """Attention of Gemma 3 and later, with norms of queries and keys."""

    q_norm: Forward
    k_norm: Forward


class DecoderLayer(Protocol):
    """Gemma's decoder layer: attention, then the MLP."""

    self_attn: Callable[..., tuple[torch.Tensor, object]]
    mlp: Forward
    input_layernorm: Forward
    post_attention_layernorm: Forward


class FourNormLayer(DecoderLayer, Protocol):
    """Decoder layer of Gemma 2 and later: norms before and after both parts."""

    pre_feedforward_layernorm: Forward
    post_feedforward_layernorm: Forward


def has_four_norms(layer: object) -> TypeGuard[FourNormLayer]:
    """Return whether a decoder layer is one of Gemma 2 or later."""
    return hasattr(layer, "pre_feedforward_layernorm")


def has_head_norms(attention: object) -> TypeGuard[NormedAttention]:
    """Return whether an attention layer is one of Gemma 3 or later."""
    return hasattr(attention, "q_norm")
