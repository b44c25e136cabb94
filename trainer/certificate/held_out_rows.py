"""What an export is compared on: a few held-out rows, as they were prepared. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from trainer.conversation.dataset_files import Refused
from trainer.export.modelfile import Turns, turns_of
from trainer.rows.encoder import UNTRAINED, Encoder
from trainer.rows.prepared import COLUMNS, read_tokens

ROWS, TOKENS = 8, 256
# Tokens before the first trained one that a long row keeps.
BEFORE = 160
# For trainings whose rows have no answer, and to see the chat template at work on more than one turn.
OWN = (
    ("What is the capital of France?",),
    ("Write a short poem about the sea.",),
    ("Two lines,\nan empty one:\n\n  and  blanks within. Ünïcode 🙂 <b>tag</b>",),
    ("My name is Ada.", "Hello Ada, how can I help?", "What is my name?"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens of a conversation and which of them were trained on. Without labels the trained model's own answer is
    what the others are compared on."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that waits for an answer, and the tokens that it was trained to become."""

    messages: list[dict[str, str]]
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class ComparisonRows:
    """source says where the rows come from, for the certificate."""

    source: str
    rows: list[Row]
    prompts: list[Prompt]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def collect(prepared: Path, trained: Path) -> ComparisonRows:
    """Held-out rows; where there are none, rows that were trained on, or gemtune's own questions. trained: a folder
    with the tokenizer and the template of the training."""
    encoder = Encoder(trained, max_length=TOKENS)
    own = [prompt for turns in OWN if (prompt := _prompt(encoder, _conversation(turns))) is not None]
    for name, source in (("eval.parquet", "held-out rows"), ("train.parquet", "rows that were trained on")):
        rows = list(islice(_rows(prepared / name), ROWS))
        if rows:
            return ComparisonRows(source, [_window(row) for row in rows], [*_prompts_in(rows, encoder), *own])
    return ComparisonRows("gemtune's own questions", [Row(prompt.tokens, []) for prompt in own], own)


def _rows(path: Path) -> Iterator[Mapping[str, list[int]]]:
    """Rows of tokens and labels alone: those of other trainings have none, and pictures cannot be shown to all."""
    import pyarrow.parquet as pq

    if path.is_file() and set(COLUMNS) == set(pq.read_schema(path).names):
        yield from (row for row in read_tokens(path) if any(label != UNTRAINED for label in row["labels"]))


def _first_trained(labels: Sequence[int]) -> int:
    return next(index for index, label in enumerate(labels) if label != UNTRAINED)


def _window(row: Mapping[str, list[int]]) -> Row:
    """At most TOKENS of a row, the first trained one among them."""
    start = max(0, min(_first_trained(row["labels"]) - BEFORE, len(row["labels"]) - TOKENS))
    return Row(row["input_ids"][start : start + TOKENS], row["labels"][start : start + TOKENS])


def _prompts_in(rows: Sequence[Mapping[str, list[int]]], encoder: Encoder) -> list[Prompt]:
    """The questions of rows; none where the template does more than put words around turns, and they cannot be read."""
    try:
        turns = turns_of(encoder.template)
    except StepError:
        return []
    return [prompt for row in rows if (prompt := _prompt_of(encoder, turns, row)) is not None]


def _prompt_of(encoder: Encoder, turns: Turns, row: Mapping[str, list[int]]) -> Prompt | None:
    """The row's first question as a conversation, read back from its tokens; None when they are not those of one plain
    turn (a system message went before it, or it was cut)."""
    tokens = row["input_ids"][: _first_trained(row["labels"])]
    said = turns.user_text_in(encoder.text(tokens))
    if said is None:
        return None
    prompt = _prompt(encoder, _conversation((said,)))
    return prompt if prompt is not None and prompt.tokens == tokens else None


def _conversation(turns: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(turns)]


def _prompt(encoder: Encoder, messages: list[dict[str, str]]) -> Prompt | None:
    """None for a template that refuses it."""
    tokens = encoder.prompt(messages)
    return None if isinstance(tokens, Refused) else Prompt(messages, tokens)
