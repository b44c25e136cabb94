"""Lines of JSON between the command line and the program that answers.

A question has `messages`, and the options of `OPTIONS`. The program says `ready` once, then for each question any
number of `text` and one `end`, or an `error`.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TextIO

from gemtune.datasets.conversation import Conversation, of_messages
from gemtune.errors import GemtuneError, StepError
from trainer.answers.answering import THINKING, Answer, Question
from trainer.answers.runtime import Runtime
from trainer.gguf.llama_library import Sampling

MAX_SEED = 2**32


class Output:
    """Writer of the program's lines.

    Standard output is theirs alone: what libraries print goes to standard error.
    """

    def __init__(self) -> None:
        sys.stdout.flush()
        self._lines: TextIO = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
        os.dup2(2, 1)

    def ready(self, runtime: Runtime) -> None:
        """Say that the model is loaded."""
        self._write("ready", runtime=runtime.name, context_length=runtime.context_length, sees=runtime.sees)

    def text(self, text: str, is_thought: bool) -> None:
        """Say the next piece of an answer."""
        self._write("text", text=text, is_thought=is_thought)

    def end(self, answer: Answer) -> None:
        """Say that an answer is complete."""
        self._write("end", **asdict(answer))

    def error(self, error: GemtuneError) -> None:
        """Say why there is no answer."""
        self._write("error", code=error.code, message=error.message, hint=error.hint)

    def _write(self, kind: str, **fields: Any) -> None:
        self._lines.write(json.dumps({"type": kind, **fields}) + "\n")


def read_question(line: str, runtime: Runtime) -> Question:
    """Return the question of a line.

    Raises StepError `no_thinking` if the model is to think and its chat template has no such option.
    """
    fields: Mapping[str, Any] = json.loads(line)
    options = {}
    if fields.get("thinking"):
        if THINKING not in runtime.template.variables:
            message = "the chat template of this model has no option that lets it think"
            raise StepError("no_thinking", message, hint="leave out --thinking")
        options[THINKING] = True
    messages = of_messages(fields["messages"])
    conversation = Conversation(messages.turns, template_options=options)
    return Question(conversation, fields["max_tokens"], _sampling(fields), bool(fields.get("by_base")))


def _sampling(fields: Mapping[str, Any]) -> Sampling | None:
    """Return how to draw tokens, or None for the most likely ones."""
    temperature, top_p, seed = (fields.get(name) for name in ("temperature", "top_p", "seed"))
    if temperature is None and top_p is None:
        return None
    return Sampling(
        1.0 if temperature is None else temperature,
        1.0 if top_p is None else top_p,
        random.randrange(MAX_SEED) if seed is None else seed,
    )
