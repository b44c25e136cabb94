"""Files of a model, and the interface of a loaded model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

from gemtune.datasets.conversation import Conversation
from gemtune.errors import StepError
from gemtune.families.generation import TurnFormat
from gemtune.methods import Modality
from trainer.conversation.chat_template import ChatTemplate
from trainer.gguf.llama_library import Sampling
from trainer.new_tokens.embedding import NewTokens
from trainer.process.crashes import cause_of


@dataclass(frozen=True, slots=True)
class TransformersFiles:
    """Folders of a model that transformers runs.

    model: a whole model, or the base model of the adapter. tokenizer: the folder with tokenizer, chat template and
    generation config. original: the base model of a whole model; None if it is not known. new_tokens: tokens of a whole
    model that `original` lacks. dtype: name of the type that the weights were published in; None: as they are stored.
    in_four_bits: as QLoRA trained it. modality: of the training.
    """

    model: Path
    adapter: Path | None
    tokenizer: Path
    original: Path | None = None
    new_tokens: NewTokens | None = None
    dtype: str | None = None
    in_four_bits: bool = False
    modality: Modality = "text"


@dataclass(frozen=True, slots=True)
class GgufFiles:
    """A GGUF file, and the folder of llama.cpp."""

    model: Path
    tools: Path


AnswerFiles = TransformersFiles | GgufFiles


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """Facts about a chat template. turns, variables: see ChatTemplate."""

    turns: TurnFormat | None
    variables: frozenset[str]

    @classmethod
    def of(cls, template: ChatTemplate | TemplateFacts) -> TemplateFacts:
        """Return the facts about a template."""
        return cls(template.turns, template.variables)


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

    name: of the library that runs it. template: of its chat template. context_length: most tokens of prompt and answer
    together; None if the model does not say. has_base: whether the base model can answer, too.
    """

    name: str
    template: TemplateFacts
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


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line of `python -m trainer.answers`."""
    parser = argparse.ArgumentParser(prog="python -m trainer.answers", description="Answer questions.")
    parser.add_argument("job", help="id of the job")
    parser.add_argument("--format", choices=("adapter", "merged", "gguf"), help="ask the exported files")
    parser.add_argument("--folder", type=Path, help="ask the downloaded files in this folder")
    parser.add_argument("--base-model", metavar="MODEL", help="base model of a downloaded adapter")
    parser.add_argument(
        "--modality", choices=get_args(Modality), default="text", help="what the downloaded model was trained on"
    )
    parser.add_argument("--checkpoint", type=int, metavar="TRAIN_STEP", help="ask a checkpoint of the training")
    return parser


def out_of_memory(error: BaseException) -> StepError:
    """Return the error for a machine with too little memory."""
    message = f"this machine has too little memory for the model: {cause_of(error)}"
    return StepError("out_of_memory", message, hint="use a machine with more memory, or a smaller export")


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
