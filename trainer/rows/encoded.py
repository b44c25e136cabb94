"""Tokenized rows of supervised fine-tuning, and their batches."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from gemtune.datasets.refusal import Refused
from trainer.conversation.render_limits import SharedLimits
from trainer.dataset.row import Row
from trainer.rendering.spans import Span
from trainer.rows.prepared import AUDIO, PICTURES

# A batch ends with so many rows, or so many characters. Rows are read and rendered a few at a time.
BATCH_ROWS, BATCH_CHARACTERS, ROWS_AT_A_TIME = 128, 256 * 1024, 8
# Batches are tokenized beside renderings up to so many characters in all: renderings limit the CPU time and memory of
# the whole process. A longer batch is tokenized alone.
LONGEST_BESIDE = 1024 * 1024
# Threads that tokenize, if there are as many cores. Reading and labelling a long row takes a third of the time of
# tokenizing it, so that more threads would wait for the main one.
MOST_THREADS = 4
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

    Batches are tokenized while the next ones are rendered, each by one thread. tokenizer: of the `tokenizers` library.
    """

    def tokenized(texts: list[str]) -> list[Any]:
        encodings: list[Any] = tokenizer.encode_batch(texts, add_special_tokens=False)
        return encodings

    threads = min(MOST_THREADS, os.cpu_count() or 1)
    waiting: deque[tuple[list[Numbered], Future[list[Any]]]] = deque()
    with _library_without_threads(), ThreadPoolExecutor(threads) as pool:
        for batch in _batches(rows, render):
            while waiting and _characters(batch, *(each for each, _ in waiting)) > LONGEST_BESIDE:
                yield from _finished(*waiting.popleft())
            texts = [each.text for _, _, each in batch if isinstance(each, Rendered)]
            if _characters(batch) > LONGEST_BESIDE:
                parts = [pool.submit(tokenized, [text]) for text in texts]
                yield from _finished(batch, *parts)
                continue
            waiting.append((batch, pool.submit(tokenized, texts)))
            if len(waiting) > threads:
                yield from _finished(*waiting.popleft())
        while waiting:
            yield from _finished(*waiting.popleft())


@contextmanager
def _library_without_threads() -> Iterator[None]:
    """Keep the library `tokenizers` from dividing batches among its threads.

    As many as there are cores would hold up the main thread, which takes longer for most rows than tokenizing them.
    """
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _batches(rows: Iterable[Row], render: Callable[[dict[str, Any]], Rendered | Refused]) -> Iterator[list[Numbered]]:
    """Yield the rendered rows in batches."""
    batch: list[Numbered] = []
    characters, ahead = 0, iter(rows)
    while few := list(islice(ahead, ROWS_AT_A_TIME)):
        with SharedLimits():
            rendered = [(number, row, row if isinstance(row, Refused) else render(row)) for number, row in few]
        batch += rendered
        characters += _characters(rendered)
        if len(batch) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _characters(*batches: list[Numbered]) -> int:
    """Return the characters of the rendered rows of batches."""
    return sum(len(each.text) for batch in batches for _, _, each in batch if isinstance(each, Rendered))


def _finished(batch: list[Numbered], *parts: Future[list[Any]]) -> list[tuple[int, Any, Encoded | Refused]]:
    """Return the tokenized rows of a batch. parts: their encodings, in order."""
    encodings = chain.from_iterable([part.result() for part in parts])
    # Tokens of a long batch may need more memory than a rendering is allowed.
    with SharedLimits() if _characters(batch) <= LONGEST_BESIDE else nullcontext():
        return [
            (number, row, rendered.finish(next(encodings)) if isinstance(rendered, Rendered) else rendered)
            for number, row, rendered in batch
        ]
