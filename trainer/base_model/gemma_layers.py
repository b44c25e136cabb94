"""The parts of a Gemma as protocols, for functions that take the place of their forwards in any of its generations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeGuard

if TYPE_CHECKING:
    import torch

Forward: TypeAlias = "Callable[..., torch.Tensor]"


class Norm(Protocol):
    """Gemma's RMSNorm."""

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


class AttentionOfNorms(Attention, Protocol):
    """Attention since Gemma 3."""

    q_norm: Forward
    k_norm: Forward


class DecoderLayer(Protocol):
    """Gemma's decoder layer."""

    self_attn: Callable[..., tuple[torch.Tensor, object]]
    mlp: Forward
    input_layernorm: Forward
    post_attention_layernorm: Forward


class LayerOfFourNorms(DecoderLayer, Protocol):
    """The decoder layer since Gemma 2."""

    pre_feedforward_layernorm: Forward
    post_feedforward_layernorm: Forward


def has_norms_on_both_sides(layer: object) -> TypeGuard[LayerOfFourNorms]:
    """Tell a decoder layer of Gemma 2 or later."""
    return hasattr(layer, "pre_feedforward_layernorm")


def has_norms_of_heads(attention: object) -> TypeGuard[AttentionOfNorms]:
    """Tell an attention of Gemma 3 or later."""
    return hasattr(attention, "q_norm")
