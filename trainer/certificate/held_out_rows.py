"""Rows and prompts on which an export is compared with the trained model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from gemtune.datasets.conversation import of_messages
from gemtune.datasets.refusal import Refused
from gemtune.errors import StepError
from trainer.export.modelfile import Turns, turns_of
from trainer.rows.encoder import UNTRAINED, Encoder
from trainer.rows.prepared import COLUMNS, read_tokens

# Number of rows, and tokens per row.
ROWS, TOKENS = 8, 256
# A longer row keeps this many tokens before the first trained one.
CONTEXT_TOKENS = 160
# For jobs whose rows have no answers, and to test the chat template on several turns and unusual characters.
OWN_CONVERSATIONS = (
    ("What is the capital of France?",),
    ("Write a short poem about the sea.",),
    ("Two lines,\nan empty one:\n\n  and  blanks within. Ünïcode 🙂 <b>tag</b>",),
    ("My name is Ada.", "Hello Ada, how can I help?", "What is my name?"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens of a conversation, with labels as in training.

    Without labels the row is a prompt, and models are compared on the trained model's own answer.
    """

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that a user's message ends, and its tokens in training."""

    messages: list[dict[str, str]]
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class ComparisonRows:
    """Rows and prompts to compare on. source: where they come from, in words."""

    source: str
    rows: list[Row]
    prompts: list[Prompt]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as `comparison_process` reads them."""
        return asdict(self)


def collect(prepared: Path, trained: Path) -> ComparisonRows:
    """Collect the rows and prompts to compare on.

    The rows are held-out rows, if there are any, otherwise rows of the training, otherwise gemtune's own prompts.
    prepared: the output of prepare. trained: a folder with the tokenizer and chat template of training.
    """
    encoder = Encoder(trained, max_length=TOKENS)
    own = [prompt for turns in OWN_CONVERSATIONS if (prompt := _prompt(encoder, _conversation(turns))) is not None]
    for name, source in (("eval.parquet", "held-out rows"), ("train.parquet", "rows that were trained on")):
        rows = list(islice(_rows(prepared / name), ROWS))
        if rows:
            return ComparisonRows(source, [_window(row) for row in rows], [*_prompts_in(rows, encoder), *own])
    return ComparisonRows("gemtune's own questions", [Row(prompt.tokens, []) for prompt in own], own)


def _rows(path: Path) -> Iterator[Mapping[str, list[int]]]:
    """Yield the supervised, text-only rows of a token file.

    Rows of DPO and GRPO have no labels, and not every runtime here reads pictures.
    """
    import pyarrow.parquet as pq

    if path.is_file() and set(COLUMNS) == set(pq.read_schema(path).names):
        yield from (row for row in read_tokens(path) if any(label != UNTRAINED for label in row["labels"]))


def _first_trained(labels: Sequence[int]) -> int:
    return next(index for index, label in enumerate(labels) if label != UNTRAINED)


def _window(row: Mapping[str, list[int]]) -> Row:
    """Return at most TOKENS tokens of a row, including the first trained one."""
    start = max(0, min(_first_trained(row["labels"]) - CONTEXT_TOKENS, len(row["labels"]) - TOKENS))
    return Row(row["input_ids"][start : start + TOKENS], row["labels"][start : start + TOKENS])


def _prompts_in(rows: Sequence[Mapping[str, list[int]]], encoder: Encoder) -> list[Prompt]:
    """Return the prompts of rows, read back from their tokens.

    There are none if the chat template writes more than fixed texts around messages.
    """
    try:
        turns = turns_of(encoder.template)
    except StepError:
        return []
    return [prompt for row in rows if (prompt := _prompt_of(encoder, turns, row)) is not None]


def _prompt_of(encoder: Encoder, turns: Turns, row: Mapping[str, list[int]]) -> Prompt | None:
    """Return the prompt of a row's first answer, or None.

    None: it is more than a user's message, because of a system message, or less, because the row was cut.
    """
    tokens = row["input_ids"][: _first_trained(row["labels"])]
    text = turns.user_text_in(encoder.text(tokens))
    if text is None:
        return None
    prompt = _prompt(encoder, _conversation((text,)))
    return prompt if prompt is not None and prompt.tokens == tokens else None


def _conversation(turns: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(turns)]


def _prompt(encoder: Encoder, messages: list[dict[str, str]]) -> Prompt | None:
    """Return a prompt with its tokens, or None if the template rejects it."""
    tokens = encoder.prompt(of_messages(messages))
    return None if isinstance(tokens, Refused) else Prompt(messages, tokens)
