"""Hidden states of a model that was just trained, for its exports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

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
    from trainer.training.audio_batches import AudioInputs
    from trainer.training.picture_batches import PictureInputs

# Models with up to this many bytes of weights are computed in float32, so that the reference has no rounding but that
# of the weights.
FLOAT32_UP_TO = 4 << 30
# Rows are computed together up to this many tokens: each pass reads all weights, and takes as long for a few tokens.
TOKENS_AT_ONCE = 512


class MediaReader(Protocol):
    """The data collator of a job with pictures or audio."""

    def row_inputs(self, input_ids: torch.Tensor, numbers: Sequence[int]) -> PictureInputs | AudioInputs:
        """Return the additional model inputs for one row.

        input_ids: (1, positions). numbers: of its media.
        """
        ...


def record_base(
    model: LanguageModel, rows: Sequence[Row], dtype: torch.dtype, media: MediaReader | None
) -> list[RowStates]:
    """Return what a model says on rows before all of its weights are trained.

    dtype: the type to compute in. media: None in a text job.
    """
    head = head_of(model)
    inputs = _inputs_of(rows, media)
    with _evaluating(model):
        hidden_states = _hidden_states(model, rows, dtype, inputs)
    return _with_predictions([RowStates(hidden, None, None, None) for hidden in hidden_states], rows, head)


def record(
    model: LanguageModel,
    rows: ComparisonRows,
    before: Sequence[RowStates] | None,
    dtype: torch.dtype,
    media: MediaReader | None,
) -> Reference:
    """Return the reference of a trained model, which is converted to float32.

    before: from `record_base`; None for an adapter, which is disabled for the base model's part. dtype: the type to
    compute in, unless the model is small enough for float32. media: None in a text job.
    """
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if size <= FLOAT32_UP_TO:
        dtype = _use_float32(model)
    base_head = head = head_of(model)
    if unwrap(model).get_output_embeddings().weight.requires_grad:
        with _without_adapter(model):
            base_head = head_of(model)
    inputs = _inputs_of(rows.rows, media)
    with _evaluating(model):
        hidden_states = _hidden_states(model, rows.rows, dtype, inputs)
        answers = _answers(model, [prompt.tokens for prompt in rows.prompts[:ANSWERS]], dtype, head)
        if before is not None:
            pairs = zip(hidden_states, before, strict=True)
            states = [RowStates(hidden, None, base.base_loss, base.base_choice) for hidden, base in pairs]
        else:
            with _without_adapter(model):
                base_states = _hidden_states(model, rows.rows, dtype, inputs)
            both = zip(hidden_states, base_states, strict=True)
            states = [RowStates(hidden, of_base, None, None) for hidden, of_base in both]
            states = _with_predictions(states, rows.rows, base_head)
    states = [replace(each, inputs=of_row) for each, of_row in zip(states, inputs, strict=True)]
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


@contextmanager
def _evaluating(model: LanguageModel) -> Iterator[None]:
    """Compute without dropout and gradients."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _inputs_of(rows: Sequence[Row], media: MediaReader | None) -> list[Mapping[str, torch.Tensor]]:
    """Return the model inputs of each row besides tokens; none for texts."""
    return [
        {} if media is None or not row.media else _row_inputs(media, torch.tensor([row.input_ids]), row.media)
        for row in rows
    ]


def _row_inputs(media: MediaReader, input_ids: torch.Tensor, numbers: Sequence[int]) -> Mapping[str, torch.Tensor]:
    return {name: cast(torch.Tensor, value) for name, value in media.row_inputs(input_ids, numbers).items()}


def _hidden_states(
    model: LanguageModel, rows: Sequence[Row], dtype: torch.dtype, inputs: Sequence[Mapping[str, torch.Tensor]]
) -> list[torch.Tensor]:
    """Return the last hidden states at the compared positions of each row.

    inputs: of each row, besides tokens.
    """
    states: list[torch.Tensor] = []
    for together in _batches_of(rows):
        batch_rows = rows[together.start : together.stop]
        batch = _on_device(model, _batch(model, batch_rows) | dict(inputs[together.start]))
        hidden = head_inputs(model, batch, dtype).hidden.cpu()
        states += [part.clone() for part in hidden.split([len(row.positions) for row in batch_rows])]
    return states


def _batches_of(rows: Sequence[Row]) -> Iterator[range]:
    """Yield ranges of rows, at most TOKENS_AT_ONCE tokens when padded.

    A row with media is alone.
    """
    start = longest = 0
    for index, row in enumerate(rows):
        longest = max(longest, len(row.input_ids))
        is_full = (index - start + 1) * longest > TOKENS_AT_ONCE
        if index > start and (is_full or row.media or rows[start].media):
            yield range(start, index)
            start, longest = index, len(row.input_ids)
    if rows:
        yield range(start, len(rows))


def _batch(model: LanguageModel, rows: Sequence[Row]) -> dict[str, Any]:
    """Return rows as the model is trained with them."""
    is_flat = model.config._attn_implementation == row_attention.NAME
    items = [[cast(batches.Row, {"input_ids": row.input_ids, "labels": row.labels})] for row in rows]
    return dict(batches.flatten_rows(items) if is_flat else batches.pad_rows(items))


def _on_device(model: LanguageModel, batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def _with_predictions(states: Sequence[RowStates], rows: Sequence[Row], head: OutputHead) -> list[RowStates]:
    """Add the base model's losses and choices to the states of rows.

    Without states of the base model, the others are its.
    """
    if not states:
        return []
    hidden = torch.cat([each.hidden if each.base is None else each.base for each in states])
    losses, choices = head.predictions(hidden, [row.labels[at + 1] for row in rows for at in row.positions])
    counts = [len(row.positions) for row in rows]
    by_row = zip(states, losses.split(counts), choices.split(counts), strict=True)
    return [replace(each, base_loss=loss.clone(), base_choice=choice.clone()) for each, loss, choice in by_row]


def _answers(
    model: LanguageModel, prompts: Sequence[Sequence[int]], dtype: torch.dtype, head: OutputHead
) -> list[list[int]]:
    """Generate greedily, without a cache, until a token ends each answer."""
    ending = getattr(unwrap(model).generation_config, "eos_token_id", None)
    stops = {ending} if isinstance(ending, int) else set(ending or ())
    answers: list[list[int]] = [[] for _ in prompts]
    unfinished = list(range(len(prompts)))
    for _ in range(ANSWER_TOKENS):
        so_far = [[*prompts[index], *answers[index]] for index in unfinished]
        rows = [Row([*tokens, 0], [UNTRAINED] * len(tokens) + [0]) for tokens in so_far]
        states = zip(unfinished, _hidden_states(model, rows, dtype, [{}] * len(rows)), strict=True)
        chosen = {index: int(head(hidden).argmax()) for index, hidden in states}
        unfinished = [index for index in unfinished if chosen[index] not in stops]
        for index in unfinished:
            answers[index].append(chosen[index])
    return answers
