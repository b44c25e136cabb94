"""Answers of a model folder, or of an adapter on its base, in transformers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation.stopping_criteria import StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.refusal import BadRow, Refused
from trainer.answers.files import TransformersFiles
from trainer.answers.prompt_media import PromptMedia
from trainer.answers.runtime import Prompt, Request, bad_prompt
from trainer.base_model import folder_contents, four_bits
from trainer.base_model.language_model import is_wrapped, unwrap
from trainer.base_model.precision import compute_dtype, dtype_named, stored_dtype
from trainer.model import loading
from trainer.new_tokens import embedding
from trainer.rows.encoder import Encoder

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel


class Transformers:
    """A model with the chat template and the end tokens of its training.

    The base model is the same weights without the adapter; of a whole model it is loaded when it is asked first. Raises
    StepError.
    """

    name = "transformers"

    def __init__(self, files: TransformersFiles):
        self._files = files
        config = folder_contents.config_of(files.model)
        self.context_length = folder_contents.max_positions(config)
        self.has_base = files.adapter is not None or files.original is not None
        self._media = PromptMedia(files.model, files.tokenizer, files.modality, config)
        self._encoder = Encoder(
            files.tokenizer,
            media=self._media.tokens,
            max_length=self.context_length or sys.maxsize,
            vocab_size=_vocab_size(files, config),
        )
        self.template = self._encoder.template
        self._model = _load(files)
        _multiply_in_one_matrix(self._model)

    def prompt(self, conversation: Conversation) -> Prompt:
        """Return the tokens of a conversation. Raises StepError."""
        try:
            opened = self._media.opened(conversation)
        except BadRow as bad:
            raise bad_prompt(bad) from bad
        tokens = self._encoder.prompt(opened)
        if isinstance(tokens, Refused):
            raise bad_prompt(tokens.reason)
        return Prompt(tokens, self._media.inputs(tokens, opened, self._model.device))

    def generate(self, request: Request, take: Callable[[int], None]) -> None:
        """Pass each token of an answer on."""
        model = self._whole_base if request.by_base and self._files.adapter is None else self._model
        causal_model: Any = unwrap(model)  # its own class has `generate`, and not that of all models
        prompt, sampling = request.prompt, request.sampling
        tokens = torch.tensor([list(prompt.tokens)], device=model.device)
        drawing: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if sampling is not None:
            torch.manual_seed(sampling.seed)
            drawing = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        without_adapter = model.disable_adapter() if request.by_base and is_wrapped(model) else nullcontext()
        with torch.inference_mode(), without_adapter:
            causal_model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=request.limit,
                streamer=_Streamer(take, self._ends),
                stopping_criteria=StoppingCriteriaList([_stop_when(request.is_stopped)]),
                **prompt.inputs,
                **drawing,
            )

    def token_id(self, text: str) -> int | None:
        """Return the id of a token, or None if the vocabulary lacks it."""
        return self._encoder.token_id(text)

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens, without special tokens."""
        return self._encoder.answer_text(tokens)

    @cached_property
    def _ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        ends = getattr(unwrap(self._model).generation_config, "eos_token_id", None)
        return frozenset([ends] if isinstance(ends, int) else ends or ())

    @cached_property
    def _whole_base(self) -> LanguageModel:
        """The base model of a whole model, which ends answers as that does.

        Its rows for new tokens are those with which the training began.
        """
        assert self._files.original is not None
        base = _load(
            TransformersFiles(self._files.original, None, self._files.tokenizer, modality=self._files.modality)
        )
        if self._files.new_tokens is not None:
            self._files.new_tokens.add_rows(unwrap(base))
        unwrap(base).generation_config = unwrap(self._model).generation_config
        return base


def _load(files: TransformersFiles) -> LanguageModel:
    """Load the model for the fastest computation of this machine."""
    config = folder_contents.config_of(files.model)
    stored = stored_dtype(files.model) if files.dtype is None else dtype_named(files.dtype)
    dtype = compute_dtype(stored)
    return loading.load(
        files.model,
        files.adapter,
        dtype="auto" if "quantization_config" in config else dtype,
        attention=loading.masked_attention(files.model),
        with_media=files.modality != "text",
        four_bits=(
            four_bits.quantization_config(dtype, folder_contents.family_of_config(config))
            if files.in_four_bits
            else None
        ),
        device="cuda" if torch.cuda.is_available() else None,
    )


def _multiply_in_one_matrix(model: LanguageModel) -> None:
    """Let torch multiply the last position by the output head as a matrix.

    A frozen weight makes torch treat the slice of hidden states as a batch of matrices, which takes 1.8 s instead of
    0.04 s for each prompt with a vocabulary of 262,144. No gradient is computed.
    """
    head = unwrap(model).get_output_embeddings()
    weight = getattr(head, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.is_floating_point():
        weight.requires_grad_(True)


def _vocab_size(files: TransformersFiles, config: Mapping[str, Any]) -> int | None:
    """Return how many tokens have embeddings, those of the adapter included."""
    rows = folder_contents.vocab_size(config)
    new_tokens = None if files.adapter is None else embedding.read(files.adapter)
    return rows if rows is None or new_tokens is None else new_tokens.rows_after(rows)


class _Streamer(BaseStreamer):
    """Receiver of generated tokens; the first call has the prompt."""

    def __init__(self, take: Callable[[int], None], ends: frozenset[int]):
        self._take, self._ends = take, ends
        self._has_prompt = False

    def put(self, value: torch.Tensor) -> None:
        """Receive tokens."""
        if self._has_prompt:
            for token in value.tolist():
                if token not in self._ends:
                    self._take(token)
        self._has_prompt = True

    def end(self) -> None:
        """Do nothing: `generate` returns as well."""


def _stop_when(is_stopped: Callable[[], bool]) -> Any:
    """Return a stopping criterion of transformers."""

    def stops(input_ids: torch.Tensor, scores: object, **more: object) -> torch.Tensor:
        return torch.full((len(input_ids),), is_stopped(), device=input_ids.device)

    return stops
