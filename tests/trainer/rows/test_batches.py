"""Batches of rows have the tokens that the rows have one by one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from gemtune.datasets.refusal import Refused
from gemtune.errors import StepError
from gemtune.request.training_config import TrainingConfig
from tests import rows
from trainer.rows import encoded
from trainer.rows.encoded import Rendered, encode_in_batches
from trainer.rows.encoder import Encoder
from trainer.rows.kinds import RowKind, encode_rows, row_kind

# Rows of every way through the encoder: conversations, plain texts, rows that are refused before and after tokenizing.
MIXED: list[Any] = [
    *rows.train_rows(9),
    {"text": "Plain words."},
    {"nothing": "known"},
    Refused("not JSON"),
    {"prompt": "long", "completion": "word " * 300},
    {"messages": [{"role": "user", "content": "<start_of_turn>"}, {"role": "assistant", "content": "x"}]},
    *rows.train_rows(3),
]


@pytest.fixture(scope="module")
def kind(tiny: Path) -> RowKind:
    config = TrainingConfig(base_model_id=str(tiny))
    return row_kind(config, Encoder(tiny, max_length=128, cuts=False), None, max_length=128)


@pytest.mark.parametrize(("of_rows", "characters", "beside"), [(1, 10**6, 10**6), (4, 10**6, 10**6), (128, 40, 0)])
def test_rows_have_the_tokens_that_they_have_alone(
    kind: RowKind, monkeypatch: pytest.MonkeyPatch, of_rows: int, characters: int, beside: int
) -> None:
    monkeypatch.setattr(encoded, "BATCH_ROWS", of_rows)
    monkeypatch.setattr(encoded, "BATCH_CHARACTERS", characters)
    monkeypatch.setattr(encoded, "LONGEST_BESIDE", beside)
    together = list(encode_rows(kind, enumerate(MIXED, 1)))
    alone = [row if isinstance(row, Refused) else kind.encode(row) for row in MIXED]
    assert [(number, row) for number, row, _ in together] == list(enumerate(MIXED, 1))
    assert [prepared for _, _, prepared in together] == alone
    assert sum(isinstance(row, Refused) for row in alone) == 4
    assert json.dumps([row.columns for row in alone if not isinstance(row, Refused)])


def test_a_batch_is_no_longer_than_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "BATCH_CHARACTERS", 10)
    monkeypatch.setattr(encoded, "ROWS_AT_A_TIME", 2)
    sizes: list[int] = []

    class Tokenizer:
        def encode_batch(self, texts: list[str], add_special_tokens: bool) -> list[str]:
            sizes.append(len(texts))
            return texts

    def render(row: dict[str, Any]) -> Rendered:
        return Rendered(row["text"], lambda encoding: Refused(encoding))

    numbered = [(number, {"text": "x" * number}) for number in range(1, 8)]
    results = list(encode_in_batches(numbered, render, Tokenizer()))
    assert [prepared for _, _, prepared in results] == [Refused("x" * number) for number in range(1, 8)]
    assert sorted(sizes) == [1, 2, 4]  # threads may begin them in any order


class AtOnce(Executor):
    """Executor whose work is done when it is submitted.

    A thread may begin it as early as that.
    """

    def __init__(self, threads: int) -> None:
        assert 1 <= threads <= encoded.MOST_THREADS

    def submit(self, work: Callable[..., Any], /, *values: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*values, **options))
        return future


def test_no_limit_of_a_rendering_applies_while_a_long_batch_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "BATCH_ROWS", 1)
    monkeypatch.setattr(encoded, "ROWS_AT_A_TIME", 1)
    monkeypatch.setattr(encoded, "LONGEST_BESIDE", 10)
    monkeypatch.setattr(encoded, "ThreadPoolExecutor", AtOnce)
    events: list[str] = []

    class Tokenizer:
        def encode_batch(self, texts: list[str], add_special_tokens: bool) -> list[str]:
            events.extend(f"tokenize {len(text)}" for text in texts if text)
            return texts

    def render(row: dict[str, Any]) -> Rendered:
        def finish(encoding: str) -> Refused:
            events.append(f"finish {len(encoding)}")
            return Refused(encoding)

        return Rendered(row["text"], finish)

    numbered = [(number, {"text": "x" * number}) for number in (1, 50, 2)]
    list(encode_in_batches(numbered, render, Tokenizer()))
    assert events == ["tokenize 1", "finish 1", "tokenize 50", "finish 50", "tokenize 2", "finish 2"]


def test_batches_that_wait_together_are_no_longer_than_what_renderings_bear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "BATCH_ROWS", 1)
    monkeypatch.setattr(encoded, "ROWS_AT_A_TIME", 1)
    monkeypatch.setattr(encoded, "LONGEST_BESIDE", 10)
    monkeypatch.setattr(encoded, "MOST_THREADS", 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    waiting: list[int] = []
    most = [0]

    class Tokenizer:
        def encode_batch(self, texts: list[str], add_special_tokens: bool) -> list[str]:
            return texts

    def render(row: dict[str, Any]) -> Rendered:
        def finish(encoding: str) -> Refused:
            waiting.remove(len(encoding))
            return Refused(encoding)

        most[0] = max(most[0], sum(waiting))
        waiting.append(len(row["text"]))
        return Rendered(row["text"], finish)

    numbered = [(number, {"text": "x" * size}) for number, size in enumerate((1, 4, 5, 6, 2, 2, 2, 2, 9), 1)]
    results = list(encode_in_batches(numbered, render, Tokenizer()))
    assert [len(refused.reason) for _, _, refused in results if isinstance(refused, Refused)] == [
        1,
        4,
        5,
        6,
        *[2] * 4,
        9,
    ]
    assert most == [10]
    assert not waiting


@pytest.mark.parametrize("before", [None, "true"])
def test_the_library_starts_no_threads_of_its_own(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    name = "TOKENIZERS_PARALLELISM"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    settings: list[str | None] = []

    class Tokenizer:
        def encode_batch(self, texts: list[str], add_special_tokens: bool) -> list[str]:
            settings.append(os.environ.get(name))
            return texts

    list(encode_in_batches([(1, {})], lambda row: Rendered("x", Refused), Tokenizer()))
    assert (settings, os.environ.get(name)) == (["false"], before)


def test_an_error_of_a_row_ends_the_batches(kind: RowKind) -> None:
    def broken() -> Iterator[tuple[int, Any]]:
        yield 1, rows.train_rows(1)[0]
        raise StepError("bad_dataset", "the file ends")

    with pytest.raises(StepError, match="the file ends"):
        list(encode_rows(kind, broken()))
