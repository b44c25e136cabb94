"""One question to a loaded model: limits, generation, and its numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gemtune.datasets.conversation import Conversation
from gemtune.errors import StepError
from trainer.answers.decoding import AnswerText
from trainer.answers.runtime import Request, Runtime
from trainer.gguf.llama_library import Sampling

# The variable of chat templates that lets a model think.
THINKING = "enable_thinking"
Ended = Literal["end", "length", "context", "stopped"]


@dataclass(frozen=True, slots=True)
class Question:
    """Conversation to answer.

    max_tokens: most tokens of the answer, thoughts included. by_base: whether the base model answers.
    """

    conversation: Conversation
    max_tokens: int
    sampling: Sampling | None = None
    by_base: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of a model.

    tokens: as generated, without the end token. ended: why it ended: at the model's own end, at max_tokens, at the end
    of the model's context, or because the user stopped it. first_seconds: until the first token; None if there was
    none.
    """

    tokens: tuple[int, ...]
    text: str
    thinking: str
    thought_tokens: int
    prompt_tokens: int
    ended: Ended
    first_seconds: float | None
    seconds: float


def answer(
    runtime: Runtime,
    question: Question,
    show: Callable[[str, bool], None],
    is_stopped: Callable[[], bool],
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> Answer:
    """Answer a question.

    show: called with each new piece of the answer, and whether it is a thought. Raises StepError `prompt_too_long`,
    `no_base`, and what the runtime raises.
    """
    began = monotonic()
    if question.by_base and not runtime.has_base:
        message = "the base model is not among the files of this export, so it cannot answer beside it"
        raise StepError("no_base", message, hint="leave out --base, or leave out --format")
    prompt = runtime.prompt(question.conversation)
    room = question.max_tokens if runtime.context_length is None else runtime.context_length - len(prompt.tokens)
    if room <= 0:
        message = f"the prompt has {len(prompt.tokens)} tokens, and the model reads {runtime.context_length} at most"
        raise StepError("prompt_too_long", message, hint="shorten the prompt, or begin a new conversation")
    limit = min(question.max_tokens, room)
    text, tokens = AnswerText(runtime), list[int]()
    first_seconds: float | None = None

    def take(token: int) -> None:
        nonlocal first_seconds
        first_seconds = monotonic() - began if first_seconds is None else first_seconds
        tokens.append(token)
        for piece in text.add(token):
            show(*piece)

    runtime.generate(Request(prompt, limit, question.sampling, question.by_base, is_stopped), take)
    for piece in text.rest():
        show(*piece)
    ended: Ended = "end" if len(tokens) < limit else "length" if limit == question.max_tokens else "context"
    return Answer(
        tuple(tokens),
        text.text(thoughts=False),
        text.text(thoughts=True),
        text.thought_tokens,
        len(prompt.tokens),
        "stopped" if is_stopped() else ended,
        first_seconds,
        monotonic() - began,
    )
