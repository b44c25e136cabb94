"""Answers of a model folder, or of an adapter on its base, in transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation.stopping_criteria import StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.refusal import BadRow, Refused
from trainer.answers.prompt_media import PromptMedia
from trainer.answers.runtime import Prompt, Request, TemplateFacts, TransformersFiles, bad_prompt
from trainer.answers.tokenizer_process import TokenizerProcess, encoder_of
from trainer.base_model import folder_contents, four_bits
from trainer.base_model.language_model import is_wrapped, unwrap
from trainer.base_model.precision import compute_dtype, dtype_named, stored_dtype
from trainer.model import added_lora, loading
from trainer.model.added_lora import AddedLora

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel


class Transformers:
    """A model with the chat template and the end tokens of its training.

    The base model is the same weights without the adapter; of a whole model it is loaded when it is asked first. texts:
    a process with the tokenizer; None: it is loaded here. Raises StepError.
    """

    name = "transformers"

    def __init__(self, files: TransformersFiles, texts: TokenizerProcess | None = None):
        self._files = files
        config = folder_contents.config_of(files.model)
        self.context_length = folder_contents.max_positions(config)
        self.has_base = files.adapter is not None or files.original is not None
        self._media = PromptMedia(files.model, files.tokenizer, files.modality, config)
        self._model, self._lora = _load(files)
        _multiply_in_one_matrix(self._model)
        # The model comes first: another process may be reading the tokenizer meanwhile.
        self._texts = encoder_of(files) if texts is None else texts
        self.template = TemplateFacts.of(self._texts.template)

    def prompt(self, conversation: Conversation) -> Prompt:
        """Return the tokens of a conversation. Raises StepError."""
        try:
            opened = self._media.opened(conversation)
        except BadRow as bad:
            raise bad_prompt(bad) from bad
        tokens = self._texts.prompt(opened)
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
        with torch.inference_mode(), self._without_adapter() if request.by_base else nullcontext():
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
        return self._texts.token_id(text)

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens, without special tokens."""
        return self._texts.answer_text(tokens)

    def _without_adapter(self) -> AbstractContextManager[None]:
        """Let the base model of an adapter answer within the block."""
        if self._lora is not None:
            return self._lora.disabled()
        return self._model.disable_adapter() if is_wrapped(self._model) else nullcontext()

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
        base, _ = _load(
            TransformersFiles(self._files.original, None, self._files.tokenizer, modality=self._files.modality)
        )
        if self._files.new_tokens is not None:
            self._files.new_tokens.add_rows(unwrap(base))
        unwrap(base).generation_config = unwrap(self._model).generation_config
        return base


def _load(files: TransformersFiles) -> tuple[LanguageModel, AddedLora | None]:
    """Load the model for the fastest computation of this machine.

    The adapter is added by hooks if they can compute it, and by PEFT otherwise.
    """
    config = folder_contents.config_of(files.model)
    stored = stored_dtype(files.model) if files.dtype is None else dtype_named(files.dtype)
    dtype = compute_dtype(stored)
    model = loading.load(
        files.model,
        None,
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
    if files.adapter is None:
        return model, None
    lora = added_lora.add(unwrap(model), files.adapter)
    if lora is None:
        return loading.wrap(unwrap(model), files.adapter), None
    loading.take_generation_config(unwrap(model), files.adapter)
    return model, lora


def _multiply_in_one_matrix(model: LanguageModel) -> None:
    """Let torch multiply the last position by the output head as a matrix.

    A frozen weight makes torch treat the slice of hidden states as a batch of matrices, which takes 1.8 s instead of
    0.04 s for each prompt with a vocabulary of 262,144. No gradient is computed.
    """
    head = unwrap(model).get_output_embeddings()
    weight = getattr(head, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.is_floating_point():
        weight.requires_grad_(True)


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
