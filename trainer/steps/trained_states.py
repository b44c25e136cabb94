"""Hidden states of a model that was just trained, for its exports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch

from trainer.base_model.language_model import is_wrapped, unwrap
from trainer.certificate.held_out_rows import ComparisonRows, Row
from trainer.certificate.output_head import OutputHead
from trainer.certificate.reference import ANSWER_TOKENS, ANSWERS, RECORDED, Reference, RowStates
from trainer.model import row_attention
from trainer.model.hidden_states import head_inputs
from trainer.rows.encoded import UNTRAINED
from trainer.training import batches

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel

# Models with up to this many bytes of weights are computed in float32, so that the reference has no rounding but that
# of the weights.
FLOAT32_UP_TO = 4 << 30


def record_base(model: LanguageModel, rows: Sequence[Row], dtype: torch.dtype) -> list[RowStates]:
    """Return what a model says on rows before all of its weights are trained.

    dtype: the type to compute in.
    """
    head = head_of(model)
    return [_with_predictions(row, _hidden(model, row, dtype), None, head) for row in rows]


def record(
    model: LanguageModel, rows: ComparisonRows, before: Sequence[RowStates] | None, dtype: torch.dtype
) -> Reference:
    """Return the reference of a trained model, which is converted to float32.

    before: from `record_base`; None for an adapter, which is disabled for the base model's part. dtype: the type to
    compute in, unless the model is small enough for float32.
    """
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if size <= FLOAT32_UP_TO:
        dtype = _use_float32(model)
    head, states = head_of(model), []
    base_head = head
    if unwrap(model).get_output_embeddings().weight.requires_grad:
        with _without_adapter(model):
            base_head = head_of(model)
    for index, row in enumerate(rows.rows):
        hidden = _hidden(model, row, dtype)
        if before is not None:
            states.append(RowStates(hidden, None, before[index].base_loss, before[index].base_choice))
        else:
            with _without_adapter(model):
                base = _hidden(model, row, dtype)
            states.append(_with_predictions(row, hidden, base, base_head))
    answers = [_answer(model, prompt.tokens, dtype, head) for prompt in rows.prompts[:ANSWERS]]
    return Reference(rows, states, answers, RECORDED)


def head_of(model: LanguageModel) -> OutputHead:
    """Return the output head of a loaded model."""
    causal_model = unwrap(model)
    cap = getattr(causal_model.config.get_text_config(), "final_logit_softcapping", None)
    return OutputHead(causal_model.get_output_embeddings().weight, cap)


def _use_float32(model: LanguageModel) -> torch.dtype:
    """Convert the weights to float32; 4-bit layers then compute in it."""
    torch.nn.Module.float(model)  # not transformers' own method, which refuses models with 4-bit layers
    module: Any  # only layers of bitsandbytes have this attribute
    for module in model.modules():
        if isinstance(getattr(module, "compute_dtype", None), torch.dtype):
            module.compute_dtype = torch.float32
    return torch.float32


@contextmanager
def _without_adapter(model: LanguageModel) -> Iterator[None]:
    if is_wrapped(model):
        with model.disable_adapter():
            yield
    else:
        yield


def _hidden(model: LanguageModel, row: Row, dtype: torch.dtype) -> torch.Tensor:
    """Return the last hidden states at the compared positions of a row."""
    is_flat = model.config._attn_implementation == row_attention.NAME
    item = [cast(batches.Row, {"input_ids": row.input_ids, "labels": row.labels})]
    batch = batches.flatten_rows([item]) if is_flat else batches.pad_rows([item])
    moved = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()
    }
    was_training = model.training
    model.eval()
    with torch.no_grad():
        hidden = head_inputs(model, moved, dtype).hidden
    model.train(was_training)
    return hidden.cpu()


def _with_predictions(row: Row, hidden: torch.Tensor, base: torch.Tensor | None, head: OutputHead) -> RowStates:
    """Add the base model's losses and choices. base: None if hidden is its."""
    losses, choices = head.predictions(hidden if base is None else base, [row.labels[at + 1] for at in row.positions])
    return RowStates(hidden, base, losses, choices)


def _answer(model: LanguageModel, prompt: Sequence[int], dtype: torch.dtype, head: OutputHead) -> list[int]:
    """Generate greedily, without a cache, until a token ends the answer."""
    ends = unwrap(model).generation_config
    ending = getattr(ends, "eos_token_id", None)
    stops = {ending} if isinstance(ending, int) else set(ending or ())
    tokens = list(prompt)
    for _ in range(ANSWER_TOKENS):
        row = Row([*tokens, 0], [UNTRAINED] * len(tokens) + [0])
        best = int(next(iter(head.blocks(_hidden(model, row, dtype)))).argmax())
        if best in stops:
            break
        tokens.append(best)
    return tokens[len(prompt) :]
