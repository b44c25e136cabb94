"""Lines of JSON between the command line and the program that answers.

The program says `ready` once. A line with `file` opens a file of rows, which may have the names of `columns`, and the
answer `row` has the prompt of its first row. A line with `next` asks for the following row; after the last one, the
answer `row` has no number. A question has options, and either `messages` or `of_row`, which asks the prompt of the
latest row. Its answer is any number of `text` and one `end`. An `error` may replace `row` and `end`.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from gemtune.datasets.conversation import Audio, Content, Conversation, Image, Part, Text, Turn
from gemtune.errors import GemtuneError, StepError
from gemtune.untrusted import Unreadable, read_file
from trainer.answers.answering import THINKING, Answer, Question
from trainer.answers.runtime import Runtime, bad_prompt
from trainer.gguf.llama_library import Sampling

if TYPE_CHECKING:
    from trainer.answers.rows import Columns, RowPrompt

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
        self._write("ready", runtime=runtime.name, context_length=runtime.context_length)

    def row(self, row: RowPrompt | None) -> None:
        """Say the prompt of a row, or that there are no more."""
        names = ("number", "text", "expected", "refusal")
        self._write("row", **{name: getattr(row, name, None) for name in names})

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


class Questions:
    """Reader of questions.

    At most one row of a file is in memory at a time.
    """

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self._rows: Iterator[RowPrompt] = iter(())
        self._row: RowPrompt | None = None

    def open(self, file: Path, columns: Columns) -> None:
        """Begin to read a file of rows. columns: see `rows.read`."""
        from trainer.answers import rows  # imports the formats of datasets

        self._rows = rows.read(file, columns)

    def next_row(self) -> RowPrompt | None:
        """Return the prompt of the next row, or None behind the last one.

        Raises StepError `bad_dataset`.
        """
        self._row = next(self._rows, None)
        return self._row

    def read(self, fields: Mapping[str, Any]) -> Question:
        """Return the question of a line.

        Raises StepError `bad_prompt`, and `no_thinking` if the model is to think and its chat template has no such
        option.
        """
        conversation = self._of_row(fields) if "of_row" in fields else Conversation(_turns(fields["messages"]))
        if fields.get("thinking"):
            if THINKING not in self._runtime.template.variables:
                message = "the chat template of this model has no option that lets it think"
                raise StepError("no_thinking", message, hint="leave out --thinking")
            options = {**conversation.template_options, THINKING: True}
            conversation = replace(conversation, template_options=options)
        return Question(conversation, fields["max_tokens"], _sampling(fields), bool(fields.get("by_base")))

    def _of_row(self, fields: Mapping[str, Any]) -> Conversation:
        """Return the conversation of a row, with a question's system message."""
        row = self._row
        assert row is not None, "a row is read before it is asked"
        assert row.conversation is not None, "rows that cannot be asked are not asked"
        if fields.get("system") is None:
            return row.conversation
        if row.conversation.turns[0].role == "system":
            message = f"row {row.number} has a system message of its own"
            raise StepError("bad_prompt", message, hint="leave out --system")
        return row.conversation.with_turns([Turn("system", fields["system"]), *row.conversation.turns])


def _turns(messages: Sequence[Mapping[str, Any]]) -> tuple[Turn, ...]:
    """Return the turns of messages.

    A content is a text, or a list of texts and of paths of pictures and audio. Raises StepError `bad_prompt`.
    """
    return tuple(Turn(message["role"], _content(message["content"])) for message in messages)


def _content(content: str | Sequence[Mapping[str, str]]) -> Content:
    if isinstance(content, str):
        return content
    return tuple(map(_part, content))


def _part(part: Mapping[str, str]) -> Part:
    match part["type"]:
        case "text":
            return Text(part["text"])
        case "audio":
            return Audio(_file(part["path"]))
        case _:
            return Image(_file(part["path"]))


def _file(path: str) -> bytes:
    from trainer.media.sources import MAX_BYTES

    try:
        return read_file(Path(path), named=path, max_bytes=MAX_BYTES)
    except (OSError, Unreadable) as error:
        raise bad_prompt(error) from error


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
