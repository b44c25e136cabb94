"""Rows, tokens and train_steps of a dataset, guessed from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gemtune.jobs.parts.plan import Span
from gemtune.ports import Objects
from gemtune.request.training_config import TrainingConfig
from gemtune.services.planning import dataset_amounts
from gemtune.services.planning.dataset_amounts import SAMPLE, RowSizes, amounts_of, measure
from tests.fakes import World

ROW = b'{"text": "' + b"a" * 77 + b'"}\n'  # 90 bytes, so 10, 22.5 or 60 tokens


@pytest.fixture
def data(tmp_path: Path) -> Objects:
    return World(tmp_path / "home").services.buckets.data


def config(**fields: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"base_model_id": "google/gemma-3-270m-it"} | fields)


def measured(data: Objects, *contents: bytes, name: str = "train.jsonl", **fields: Any) -> RowSizes | None:
    files = []
    for number, content in enumerate(contents):
        data.write(f"d{number}/{name}", content)
        files.append((f"d{number}/{name}", len(content)))
    return measure(data, files, config(**fields))


def bounds(span: Span | None) -> tuple[float, float, float]:
    assert span is not None
    return span.least, span.expected, span.most


def test_rows_of_one_small_file_are_counted_and_their_tokens_are_bounded(data: Objects) -> None:
    for content in (ROW * 10, ROW * 9 + ROW.rstrip(b"\n") + b" "):  # with and without a newline at the end
        sizes = measured(data, content)
        assert sizes is not None
        assert bounds(sizes.rows) == (10, 10, 10)
        assert bounds(sizes.tokens) == (100, 225, 600)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_rows_of_a_table_are_counted_by_its_quotes(data: Objects, separator: str) -> None:
    header = f"\ufeffquestion{separator}answer\r\n"
    rows = f'"two\nlines"{separator}a\r\n' * 3 + f'5" screen{separator}"b ""quoted""\n"\r\n' * 2 + f"last{separator}c"
    for name in ("train.csv", "train.tsv") if separator == "\t" else ("train.csv",):
        sizes = measured(data, (header + rows).encode(), name=name)
        assert sizes is not None
        assert bounds(sizes.rows) == pytest.approx((6, 6, 6))
        assert sizes.tokens.expected == pytest.approx(len(rows) / 4)


def test_a_row_has_no_more_tokens_than_its_limit(data: Objects) -> None:
    sizes = measured(data, ROW * 10, max_seq_length=20)
    assert sizes is not None
    assert bounds(sizes.tokens) == (100, 200, 200)
    assert measured(data, b"a" * 2**17 + b"\n") == RowSizes(
        Span(least=1, expected=1, most=1), Span(least=2048, expected=2048, most=2048)
    )


def test_rows_of_other_files_and_of_a_long_file_are_guessed_from_the_first_ones(data: Objects) -> None:
    two = measured(data, ROW * 10, ROW * 10)
    assert two is not None
    assert bounds(two.rows) == (10, 20, 40)
    assert bounds(two.tokens) == (100, 450, 2400)
    count = SAMPLE // len(ROW) + 1
    long = measured(data, ROW * count)
    assert long is not None
    # The last line of the sample is cut off, so its rows look a little longer.
    assert bounds(long.rows) == pytest.approx((count / 2, count, 2 * count), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.jsonl", b""),
        ("train.json", b" [" + ROW * 3),
        ("train.json", b"\xef\xbb\xbf[" + ROW * 3),
        ("train.json", b'{"data": [' + ROW.strip() + b"]}\n"),
        ("train.jsonl.gz", ROW * 3),
        ("train.parquet", ROW * 3),
        ("train.txt", ROW * 3),
        ("train.csv", b"question,answer\n"),
        ("train.csv", b"question,question\na,b\n"),
        ("train.csv", "question,answer\na,b\n".encode("utf-16")),
        ("train.csv.gz", b"question,answer\na,b\n"),
        ("train.jsonl", b"a" * (SAMPLE + 1)),
    ],
)
def test_a_file_whose_rows_are_no_lines_of_text_is_not_guessed(data: Objects, name: str, content: bytes) -> None:
    assert measured(data, content, name=name) is None


def test_without_a_file_there_is_nothing_to_measure(data: Objects) -> None:
    assert measure(data, [], config()) is None
    assert measure(data, [("gone/train.jsonl", 90)], config()) is None


SIZES = RowSizes(Span(least=10, expected=20, most=40), Span(least=100, expected=450, most=2400))


def test_steps_and_tokens_are_those_of_all_epochs() -> None:
    steps, tokens = amounts_of(config(batch_size=2, gradient_accumulation_steps=4, epochs=3), SIZES)
    assert bounds(steps) == (6, 9, 15)  # 10, 20 and 40 rows, 8 in a step, three times
    assert bounds(tokens) == (6 * 8 * 10, 9 * 8 * 22.5, 15 * 8 * 60)


def test_max_steps_are_exact_and_bound_the_tokens() -> None:
    training = config(batch_size=2, gradient_accumulation_steps=4, max_steps=7)
    steps, tokens = amounts_of(training, SIZES)
    assert bounds(steps) == (7, 7, 7)
    assert bounds(tokens) == (7 * 8 * 10, 7 * 8 * 22.5, 7 * 8 * 60)
    assert amounts_of(training, None) == (steps, None)
    assert amounts_of(config(), None) == (None, None)


def test_completions_of_grpo_count_as_tokens() -> None:
    training = config(
        method="RL",
        epochs=1,
        batch_size=2,
        gradient_accumulation_steps=4,
        rl_config={"algorithm": "grpo", "max_completion_length": 100},
    )
    _, tokens = amounts_of(training, SIZES)
    assert bounds(tokens) == (2 * 8 * 110, 3 * 8 * 122.5, 5 * 8 * 160)
    assert dataset_amounts.completion_tokens(training) == 100
    preference = config(method="RL", rl_config={"algorithm": "dpo"})
    assert dataset_amounts.completion_tokens(preference) == 0


def test_a_dataset_that_seems_to_have_no_row_takes_a_step() -> None:
    nothing = RowSizes(Span(least=0.2, expected=0.4, most=0.8), Span(least=2, expected=9, most=48))
    steps, tokens = amounts_of(config(batch_size=1, gradient_accumulation_steps=1, epochs=2), nothing)
    assert bounds(steps) == (2, 2, 2)
    assert bounds(tokens) == (4, 18, 96)
