"""Hidden states of the trained positions: the inputs of the loss head.

The model runs up to its head: logits of all positions would take most of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainer.base_model.language_model import unwrap
from trainer.model.on_cpu.install import accepts_query_positions
from trainer.model.row_gradients import TrainedRows, head_of
from trainer.rows.encoded import UNTRAINED

# The number of query positions is a multiple of this: oneDNN compiles and caches code for every new shape.
QUERY_POSITIONS_MULTIPLE = 64


@dataclass(frozen=True, slots=True)
class HeadInputs:
    """The inputs of the loss head, for positions that predict a trained token.

    hidden: (positions, width). targets: (positions,), int64. head: (vocabulary, width). soft_cap, rows: see
    `loss_head.cross_entropy_sum`.
    """

    hidden: torch.Tensor
    targets: torch.Tensor
    head: torch.Tensor
    soft_cap: float | None
    rows: TrainedRows | None = None


def head_inputs(model: torch.nn.Module, batch: Mapping[str, Any], dtype: torch.dtype) -> HeadInputs:
    """Return the inputs of the loss head for a batch.

    model: with or without PEFT's wrapper. batch: of `trainer.training.batches`; its "shift_labels" are UNTRAINED where
    a position predicts no trained token. dtype: the type to compute in, whatever type the weights have; hidden is
    returned in it.
    """
    causal_model = unwrap(model)
    body = causal_model.get_submodule("model")
    inputs = {name: value for name, value in batch.items() if name != "shift_labels"}
    if "attention_mask" in inputs:
        inputs["input_ids"] = _padded_with_first(inputs["input_ids"], inputs["attention_mask"])
    is_trained = is_returned = batch["shift_labels"] != UNTRAINED
    if "row_lengths" in inputs and accepts_query_positions(body) and is_trained.any():
        inputs["query_positions"] = _query_positions(is_trained[0])
        is_returned = is_trained[:, inputs["query_positions"]]
    with torch.autocast(causal_model.device.type, dtype=dtype, enabled=dtype != torch.float32):
        hidden = body(**inputs, use_cache=False).last_hidden_state
    soft_cap = getattr(causal_model.config.get_text_config(), "final_logit_softcapping", None)
    head, rows = head_of(causal_model)
    return HeadInputs(hidden[is_returned].to(dtype), batch["shift_labels"][is_trained], head, soft_cap, rows)


def _padded_with_first(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return token ids with each row's first token as its padding.

    A new model's padding has an embedding of zeros, and Gemma 3n has no gradient, but NaN, of a token of zeros that
    sees no others. input_ids, attention_mask: (rows, positions).
    """
    first = input_ids.gather(1, attention_mask.argmax(dim=1, keepdim=True))
    return torch.where(attention_mask.bool(), input_ids, first)


def _query_positions(is_trained: torch.Tensor) -> torch.Tensor:
    """Return the trained positions, filled up to the multiple with others.

    is_trained: (tokens,), boolean. Returns (query positions,), int64, ascending.
    """
    missing = -int(is_trained.sum()) % QUERY_POSITIONS_MULTIPLE
    is_query = is_trained.clone()
    is_query[(~is_trained).nonzero()[:missing]] = True
    return is_query.nonzero().squeeze(1)
