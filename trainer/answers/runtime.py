"""The interface of a loaded model, with one implementation per library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gemtune.datasets.conversation import Conversation
from gemtune.errors import StepError
from trainer.conversation.chat_template import ChatTemplate
from trainer.gguf.llama_library import Sampling


@dataclass(frozen=True, slots=True)
class Prompt:
    """Tokens of a conversation and the beginning of an answer.

    inputs: further inputs of the model, by name, such as the pixels of pictures and the features of audio.
    """

    tokens: Sequence[int]
    inputs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to answer.

    limit: most tokens of the answer. sampling: None takes the most likely token each time. by_base: whether the base
    model answers. is_stopped: returns whether the answer should end now.
    """

    prompt: Prompt
    limit: int
    sampling: Sampling | None
    by_base: bool
    is_stopped: Callable[[], bool]


class Runtime(Protocol):
    """A loaded model.

    name: of the library that runs it. template: its chat template. context_length: most tokens of prompt and answer
    together; None if the model does not say. has_base: whether the base model can answer, too.
    """

    name: str
    template: ChatTemplate
    context_length: int | None
    has_base: bool

    def prompt(self, conversation: Conversation) -> Prompt:
        """Return the tokens of a conversation. Raises StepError."""
        ...

    def generate(self, request: Request, take: Callable[[int], None]) -> None:
        """Pass each token of an answer on, without its end token.

        Raises StepError.
        """
        ...

    def token_id(self, text: str) -> int | None:
        """Return the id of a token, or None if the vocabulary lacks it."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens, without special tokens."""
        ...


def bad_prompt(reason: object) -> StepError:
    """Return the error for a prompt that the model cannot be asked."""
    return StepError("bad_prompt", f"this prompt cannot be asked: {reason}", hint="change the prompt")


def no_pictures(reason: str) -> StepError:
    """Return the error for pictures that a model cannot be shown."""
    hint = "leave out pictures; a training with modality vision gives a model that reads them"
    return StepError("no_pictures", reason, hint=hint)


def no_audio(reason: str) -> StepError:
    """Return the error for audio that a model cannot be sent."""
    hint = "leave out audio; a training with modality audio gives a model that reads it"
    return StepError("no_audio", reason, hint=hint)
