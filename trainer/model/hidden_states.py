"""What a causal language model predicts of a batch, up to its head: the head is where logits would take the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainer.base_model.language_model import unwrapped
from trainer.model.on_cpu.install import knows_asking
from trainer.rows.encoder import UNTRAINED

# oneDNN writes code for every shape of a product that it has not met, and keeps it.
ASKING_STEP = 64


@dataclass(frozen=True, slots=True)
class Predictions:
    """The positions of a batch that predict a trained token: hidden (positions, width), targets (positions,), and the
    head (vocabulary, width) with its soft cap that make logits of them."""

    hidden: torch.Tensor
    targets: torch.Tensor
    head: torch.Tensor
    soft_cap: float | None


def predictions(model: torch.nn.Module, batch: Mapping[str, Any], dtype: torch.dtype) -> Predictions:
    """Of a model, wrapped by PEFT or not, and a batch of `trainer.training.batches`, with products made in `dtype`
    whatever weights are kept in. Positions that are not trained on never reach the head."""
    whole = unwrapped(model)
    body = whole.get_submodule("model")
    inputs = {name: value for name, value in batch.items() if name != "shift_labels"}
    trained = wanted = batch["shift_labels"] != UNTRAINED
    if "row_lengths" in inputs and knows_asking(body) and trained.any():
        inputs["asking"] = _some_more(trained[0])
        wanted = trained[:, inputs["asking"]]
    with torch.autocast(whole.device.type, dtype=dtype, enabled=dtype != torch.float32):
        hidden = body(**inputs, use_cache=False).last_hidden_state
    cap = getattr(whole.config.get_text_config(), "final_logit_softcapping", None)
    head = whole.get_parameter("lm_head.weight")
    return Predictions(hidden[wanted].to(dtype), batch["shift_labels"][trained], head, cap)


def _some_more(trained: torch.Tensor) -> torch.Tensor:
    """The trained positions, and as many others as make their number one that products know already."""
    missing = -int(trained.sum()) % ASKING_STEP
    asking = trained.clone()
    asking[(~trained).nonzero()[:missing]] = True
    return asking.nonzero().squeeze(1)
