"""Tokenized rows of supervised fine-tuning, and their batches."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gemtune.datasets.refusal import Refused
from trainer.conversation.render_limits import SharedLimits
from trainer.dataset.row import Row
from trainer.rendering.spans import Span
from trainer.rows.prepared import AUDIO, PICTURES

# A batch ends with so many rows, or so many characters. Rows are read and rendered a few at a time.
BATCH_ROWS, BATCH_CHARACTERS, ROWS_AT_A_TIME = 128, 256 * 1024, 8
# A longer batch is tokenized alone: renderings beside it limit the CPU time and memory of the whole process.
LONGEST_BESIDE = 1024 * 1024
# The label of a token without a loss: the default ignore_index of torch.nn.functional.cross_entropy.
UNTRAINED = -100


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row of supervised fine-tuning, tokenized.

    input_ids and labels have the same length, at most max_length, and labels are not shifted: a label is the token's
    own id, or UNTRAINED. whole_tokens: the row's tokens before truncation. end_is_cut: truncation removed the end of
    every answer. media: numbers of the row's pictures or audio clips in the media file, in order;
    the token file has at most one column for them.
    unread_fields: names of the row's fields that cannot change what is learned. format: name of the row's format.
    """

    input_ids: list[int]
    labels: list[int]
    whole_tokens: int
    end_is_cut: bool = False
    media: Sequence[int] = ()
    unread_fields: Sequence[str] = ()
    format: str = ""

    unjudged_by = ()

    @property
    def columns(self) -> dict[str, Any]:
        return {"input_ids": self.input_ids, "labels": self.labels, PICTURES: self.media, AUDIO: self.media}

    @property
    def tokens(self) -> int:
        return len(self.input_ids)

    @property
    def truncated(self) -> bool:
        return self.whole_tokens > self.tokens

    @property
    def trained_tokens(self) -> int:
        return len(self.labels) - self.labels.count(UNTRAINED)


def labels_of(ids: Sequence[int], offsets: Sequence[Span], spans: Iterable[Span]) -> list[int]:
    """Return ids where a token is wholly inside a span, else UNTRAINED.

    offsets: the characters (begin, end) of each token. Spans and offsets are sorted.
    """
    labels = [UNTRAINED] * len(ids)
    for begin, end in spans:
        first, behind = bisect_left(offsets, (begin, begin)), bisect_left(offsets, (end,))
        labels[first:behind] = [
            token if left < right <= end else UNTRAINED
            for token, (left, right) in zip(ids[first:behind], offsets[first:behind], strict=True)
        ]
    return labels


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row as text, which is still to be tokenized.

    finish: returns the tokenized row, or why it is refused; called with the encoding of the text.
    """

    text: str
    finish: Callable[[Any], Encoded | Refused]


# A row with its number, and what it was rendered to.
Numbered = tuple[int, Any, Rendered | Refused]


def encode_in_batches(
    rows: Iterable[Row], render: Callable[[dict[str, Any]], Rendered | Refused], tokenizer: Any
) -> Iterator[tuple[int, Any, Encoded | Refused]]:
    """Yield each row with its number and its tokens, in order.

    A batch is tokenized on all cores while the next one is rendered. tokenizer: of the `tokenizers` library.
    """
    # The library starts its threads at its first batch: not within a rendering, whose address space is limited.
    tokenizer.encode_batch(["", ""], add_special_tokens=False)
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[tuple[list[Numbered], Future[Any]]] = deque()
        for batch in _batches(rows, render):
            texts = [each.text for _, _, each in batch if isinstance(each, Rendered)]
            is_long = _characters(batch) > LONGEST_BESIDE
            while is_long and waiting:
                yield from _finished(*waiting.popleft())
            waiting.append((batch, thread.submit(tokenizer.encode_batch, texts, add_special_tokens=False)))
            while len(waiting) > (0 if is_long else 1):
                yield from _finished(*waiting.popleft())
        while waiting:
            yield from _finished(*waiting.popleft())


def _batches(rows: Iterable[Row], render: Callable[[dict[str, Any]], Rendered | Refused]) -> Iterator[list[Numbered]]:
    """Yield the rendered rows in batches."""
    batch: list[Numbered] = []
    ahead = iter(rows)
    while few := list(islice(ahead, ROWS_AT_A_TIME)):
        with SharedLimits():
            batch += [(number, row, row if isinstance(row, Refused) else render(row)) for number, row in few]
        if len(batch) >= BATCH_ROWS or _characters(batch) >= BATCH_CHARACTERS:
            yield batch
            batch = []
    if batch:
        yield batch


def _characters(batch: list[Numbered]) -> int:
    """Return the characters of the rendered rows of a batch."""
    return sum(len(each.text) for _, _, each in batch if isinstance(each, Rendered))


def _finished(batch: list[Numbered], encoding: Future[Any]) -> list[tuple[int, Any, Encoded | Refused]]:
    """Return the tokenized rows of a batch."""
    encodings = iter(encoding.result())
    # Tokens of a long batch may need more memory than a rendering is allowed.
    with SharedLimits() if _characters(batch) <= LONGEST_BESIDE else nullcontext():
        return [
            (number, row, rendered.finish(next(encodings)) if isinstance(rendered, Rendered) else rendered)
            for number, row, rendered in batch
        ]
