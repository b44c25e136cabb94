"""Log lines about attention: how each kind of a model's layers computes it.

They are written at the start of each training, because speed and memory depend on it.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from trainer.model import row_attention
from trainer.model.attention import flash_rows
from trainer.model.attention.choice import MASKED, Layers, Situation, choose
from trainer.model.gradient_checkpointing import decoder_layers
from trainer.model.on_cpu.install import computes_attention

if TYPE_CHECKING:
    import torch

    from gemtune.request.training_config import Provider
    from trainer.base_model.language_model import LanguageModel

log = logging.getLogger(__name__)


def write(model: LanguageModel, dtype: torch.dtype, provider: Provider) -> None:
    """Log how attention is computed, and on a GPU compare it with the formula.

    model: as its engine loads it. dtype: the type that it computes in.
    """
    for line in lines(model, dtype, provider):
        log.info("%s", line)


def lines(model: LanguageModel, dtype: torch.dtype, provider: Provider) -> list[str]:
    """Return a line for each kind of decoder layers."""
    if provider == "unsloth" and model.device.type != "cpu":
        return ["attention: unsloth chooses it"]
    return [
        f"attention of {count} {_described(layers, count)}: {_chosen(model, dtype, layers)}"
        for layers, count in kinds_of(model).items()
    ]


def _chosen(model: LanguageModel, dtype: torch.dtype, layers: Layers) -> str:
    """Return the implementation of some layers, and why it is that one.

    With masks it is transformers' own, and its configuration says which.
    """
    choice, configured = choose(layers, _situation(model, dtype, layers)), _configured(model)
    if configured in (row_attention.NAME, MASKED.get(choice.implementation.name)):
        return str(choice)
    return f"transformers' {configured}, which is not gemtune's choice"


def kinds_of(model: LanguageModel) -> Counter[Layers]:
    """Return how many decoder layers there are of each kind."""
    return Counter(
        Layers(
            head=attention.head_dim,
            window=getattr(attention, "sliding_window", None),
            cap=getattr(attention, "attn_logit_softcapping", None),
            dropout=attention.attention_dropout,
        )
        for attention in _attentions(model)
    )


def _attentions(model: LanguageModel) -> list[Any]:
    """Return the attention of each decoder layer, whose attributes differ."""
    return [layer.self_attn for layer in decoder_layers(model)]


def _situation(model: LanguageModel, dtype: torch.dtype, layers: Layers) -> Situation:
    """Return what decides about a kind of a model's layers."""
    is_packed = _configured(model) == row_attention.NAME
    if is_packed and model.device.type == "cuda":
        return flash_rows.situation_of(model.device, dtype, layers)
    is_fused = is_packed and any(computes_attention(attention) for attention in _attentions(model))
    return Situation(model.device.type, None, 8 * dtype.itemsize, is_packed, is_fused)


def _configured(model: LanguageModel) -> str:
    """Return transformers' name for the attention of the language model."""
    return str(model.config.get_text_config()._attn_implementation)


def _described(layers: Layers, count: int) -> str:
    kind = "global" if layers.window is None else "sliding"
    window = "" if layers.window is None else f", window of {layers.window}"
    cap = "" if layers.cap is None else f", scores capped at {layers.cap:g}"
    return f"{kind} layer{'' if count == 1 else 's'} (heads of {layers.head}{window}{cap})"
