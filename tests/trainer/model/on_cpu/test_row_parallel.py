"""Rows of a batch in several threads give the same loss and gradients.

The resulting weights are the same every time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.jobs.status import Step
from tests import tiny_gemma
from tests.trainer.conftest import Bench
from tests.trainer.model.on_cpu.test_on_cpu import model
from tests.trainer.model.test_row_attention import loss_and_gradients, rows
from tests.trainer.steps.test_train import adapter, after_steps
from trainer.model.hidden_states import head_inputs
from trainer.model.loss_head import cross_entropy_sum
from trainer.model.on_cpu import row_parallel
from trainer.model.on_cpu.install import draws_all_random_numbers
from trainer.model.on_cpu.row_parallel import (
    MIN_VALUES_PER_PART,
    RowParallel,
    generator,
    split_into_chunks,
    split_into_parts,
)
from trainer.training import batches, sft
from trainer.training.batches import fill_to_multiple, flatten_rows, select_rows


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use two threads, however small the model is."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(row_parallel, "MIN_VALUES_PER_PART", 0)
    yield
    torch.set_num_threads(before)


def test_every_row_is_in_one_part_and_no_part_is_much_larger() -> None:
    rng = random.Random(0)
    counts = set()
    for _ in range(300):
        lengths = [rng.randint(1, 400) for _ in range(rng.randint(1, 12))]
        threads = rng.choice([1, 2, 3, 4, 8])
        parts = split_into_parts(lengths, width=MIN_VALUES_PER_PART, threads=threads)
        assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
        assert all(part == sorted(part) for part in parts)
        assert threads % len(parts) == 0
        largest = max(sum(lengths[row] for row in part) for part in parts)
        assert largest * len(parts) <= row_parallel.MAX_IMBALANCE * sum(lengths)
        counts.add(len(parts))
    assert counts == {1, 2, 3, 4, 8}


@pytest.mark.parametrize(
    ("lengths", "width", "threads", "count"),
    [
        ([128, 128], MIN_VALUES_PER_PART // 128, 2, 2),
        ([128, 128], MIN_VALUES_PER_PART // 128 - 1, 2, 1),  # too little work for two threads
        ([1000, 50, 50], MIN_VALUES_PER_PART, 2, 1),  # one thread would wait for the other
        ([100, 100], MIN_VALUES_PER_PART, 3, 1),  # a third core would have nothing to do
        ([100, 100], MIN_VALUES_PER_PART, 4, 2),
        ([400], MIN_VALUES_PER_PART, 2, 1),
    ],
)
def test_the_number_of_parts_is_the_most_that_pays_off(
    lengths: list[int], width: int, threads: int, count: int
) -> None:
    assert len(split_into_parts(lengths, width=width, threads=threads)) == count


def test_parts_are_not_more_than_memory_suffices_for() -> None:
    lengths = [100] * 8
    assert [len(split_into_parts(lengths, width=MIN_VALUES_PER_PART, threads=8, most=most)) for most in (None, 2)] == [
        8,
        2,
    ]


def test_two_parts_are_nearly_as_even_as_possible() -> None:
    rng, unevenness = random.Random(0), []
    for _ in range(60):
        lengths = [rng.randint(120, 360) for _ in range(8)]
        first, second = (
            sum(lengths[row] for row in part)
            for part in split_into_parts(lengths, width=MIN_VALUES_PER_PART, threads=2)
        )
        sums = [sum(some) for count in range(9) for some in combinations(lengths, count)]
        unevenness.append((max(first, second) - min(max(half, sum(lengths) - half) for half in sums)) / sum(lengths))
    assert sum(unevenness) / 60 < 0.002


def test_parts_are_balanced_by_the_cost_of_their_rows() -> None:
    """The head computes trained tokens only."""
    batch_rows = [
        {"input_ids": [5] * 100, "labels": [-100] * (100 - trained) + [5] * trained} for trained in (80, 0, 20, 60)
    ]
    batch = flatten_rows([batch_rows])
    assert batches.trained_tokens_per_row(batch) == [80, 0, 20, 60]
    costs = [100 + 2 * trained for trained in batches.trained_tokens_per_row(batch)]
    assert sorted(split_into_parts([100] * 4, costs, width=MIN_VALUES_PER_PART, threads=2)) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("lengths", "trained", "width", "shares"),
    [
        ([200, 200], [192, 193], MIN_VALUES_PER_PART // 200 + 1, [[0], [1]]),
        ([200, 200], [192, 192], MIN_VALUES_PER_PART // 200 + 1, [[0, 1]]),
        ([200, 200], [192, 193], MIN_VALUES_PER_PART // 200, [[0, 1]]),  # too little work for a second pass
        ([900, 900, 900], [90, 90, 90], MIN_VALUES_PER_PART, [[0, 1, 2]]),
        ([1000], [1000], MIN_VALUES_PER_PART, [[0]]),  # a row is not divided
        ([300, 300, 100, 100], [300, 300, 100, 100], MIN_VALUES_PER_PART, [[0], [1], [2, 3]]),
    ],
)
def test_a_part_is_divided_into_shares_with_a_limited_number_of_trained_tokens(
    lengths: list[int], trained: list[int], width: int, shares: list[list[int]]
) -> None:
    """Every other row of the batch belongs to another part."""
    part = range(0, 2 * len(lengths), 2)
    batch_values = [[both for value in values for both in (value, 7)] for values in (lengths, trained)]
    result = split_into_chunks(part, *batch_values, [2.0 * length for length in batch_values[0]], width=width)
    assert sorted(result) == [[2 * row for row in share] for share in shares]


def test_the_cost_of_the_head_per_trained_token_matches_counted_flops(tmp_path: Path) -> None:
    """PyTorch counts the operations of one token, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_gemma.build(tmp_path / "tiny")).requires_grad_(False)
    token = torch.tensor([[5]])
    with FlopCounterMode(display=False) as whole:
        model(token)
    with FlopCounterMode(display=False) as layers:
        model.model(token)
    head = whole.get_total_flops() - layers.get_total_flops()
    assert sft._head_cost(model) == pytest.approx(head / (2 * layers.get_total_flops()), rel=0.05)


def test_selected_rows_of_a_batch_equal_a_batch_of_these_rows() -> None:
    all_rows = rows()
    selected, expected = select_rows(flatten_rows([all_rows]), [0, 3]), flatten_rows([[all_rows[0], all_rows[3]]])
    assert selected.keys() == expected.keys()
    assert selected["row_lengths"] == expected["row_lengths"]
    assert all(torch.equal(selected[name], expected[name]) for name in selected if name != "row_lengths")


def test_a_batch_is_filled_up_with_an_untrained_row() -> None:
    batch = flatten_rows([rows()])
    tokens = sum(batch["row_lengths"])
    filled = fill_to_multiple(batch, tokens - 1)
    assert filled["row_lengths"] == [*batch["row_lengths"], tokens - 2]
    assert (filled["shift_labels"][:, tokens:] == -100).all()
    assert filled["position_ids"][0, tokens:].tolist() == list(range(tokens - 2))
    assert all(torch.equal(filled[name][:, :tokens], batch[name]) for name in filled if name != "row_lengths")
    assert fill_to_multiple(batch, tokens)["row_lengths"] == batch["row_lengths"]


def in_two_parts(trained: Any, dtype: torch.dtype = torch.float32) -> tuple[float, list[torch.Tensor]]:
    """Return loss and gradients of the rows, computed in two parts."""

    def loss(part: list[int]) -> torch.Tensor:
        states = head_inputs(trained, select_rows(flatten_rows([rows()]), part), dtype)
        return cross_entropy_sum(states.hidden, states.head, states.targets, soft_cap=states.soft_cap)

    trained.zero_grad()
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    total = RowParallel(parameters).sum([[lambda: loss([0, 2])], [lambda: loss([1]), lambda: loss([3])]])
    (3 * total).backward()
    return total.item(), [parameter.grad / 3 for parameter in parameters if parameter.grad is not None]


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3"])
def test_parts_have_the_loss_and_gradients_of_the_whole_batch(two_threads: None, tmp_path: Path, family: str) -> None:
    trained = model(tiny_gemma.build(tmp_path / family, family), ours=True)
    expected, expected_gradients = loss_and_gradients(trained, flatten_rows([rows()]))
    loss, gradients = in_two_parts(trained)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert len(gradients) == len(expected_gradients) > 0
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=2e-5)


def test_dropout_depends_on_the_seed_and_not_on_the_order_of_threads(two_threads: None, tmp_path: Path) -> None:
    trained = model(tiny_gemma.build(tmp_path / "tiny"), ours=True, dropout=0.5, dtype=torch.bfloat16)
    results = []
    for seed in (1, 1, 1, 1, 2):
        torch.manual_seed(seed)
        results.append((*in_two_parts(trained, torch.bfloat16), torch.rand(1)))
    loss, gradients, next_draw = results[0]
    for repeated in results[1:4]:
        assert repeated[0] == loss
        assert all(torch.equal(a, b) for a, b in zip(repeated[1], gradients, strict=True))
        assert repeated[2] == next_draw
    assert results[4][0] != loss


def test_parts_draw_different_numbers_and_other_threads_are_unaffected(two_threads: None) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    draws: list[torch.Tensor] = []

    def loss() -> torch.Tensor:
        draws.append(torch.rand(8, generator=generator()))
        return weight.sum()

    RowParallel([weight]).sum([[loss], [loss]])
    assert not torch.equal(*draws)
    assert generator() is None


def test_an_error_in_a_part_is_raised_and_restores_the_threads(two_threads: None) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    threads = []

    def fails() -> torch.Tensor:
        threads.append(torch.get_num_threads())
        raise ValueError("an error of the loss")

    parts = RowParallel([weight])
    with pytest.raises(ValueError, match="an error of the loss"):
        parts.sum([[weight.sum], [weight.sum, fails]])
    assert (threads, torch.get_num_threads(), weight.grad) == ([1], 2, None)
    parts.sum([[weight.sum], [weight.sum]]).backward()
    assert weight.grad == 2


def test_a_weight_without_a_gradient_gets_none(two_threads: None) -> None:
    used, other = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    RowParallel([used, other]).sum([[used.sum, used.sum], [used.sum]]).backward()
    assert used.grad == 3
    assert other.grad is None


def test_a_training_in_parts_matches_one_without_and_resumes_exactly(
    two_threads: None, bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    sums = RowParallel.sum
    monkeypatch.setattr(RowParallel, "sum", lambda self, losses: (counts.append(len(losses)), sums(self, losses))[1])
    training = {"batch_size": 4, "max_steps": 8, "save_steps": 3, "learning_rate": 1e-3}
    uninterrupted = bench_of(**training, lora_dropout=0.2).to(Step.TRAIN)
    interrupted = bench_of(**training, lora_dropout=0.2).to(Step.PREPARE)
    interrupted.run(Step.TRAIN, should_stop=after_steps(4))
    interrupted.run(Step.TRAIN)
    assert interrupted.curve() == uninterrupted.curve()
    before, after = adapter(uninterrupted), adapter(interrupted, attempt=2)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert counts == [2] * 16

    in_parts = bench_of(**training, lora_dropout=0.0).to(Step.TRAIN)
    assert len(counts) == 24
    torch.set_num_threads(1)
    in_one_part = bench_of(**training, lora_dropout=0.0).to(Step.TRAIN)
    assert len(counts) == 24
    assert in_parts.curve() == [(step, pytest.approx(loss, rel=1e-4)) for step, loss in in_one_part.curve()]


def test_gradient_checkpointing_is_not_combined_with_parts(
    two_threads: None, bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recomputation draws again from the default generator."""
    monkeypatch.setattr(sft.gradient_checkpointing, "SMALL_BYTES", 0)
    monkeypatch.setattr(sft.gradient_checkpointing, "MAIN_MEMORY_FRACTION", 0)
    monkeypatch.setattr(RowParallel, "sum", lambda *_: pytest.fail("the rows were divided into parts"))
    bench_of(batch_size=4, max_steps=1).to(Step.TRAIN)


def test_a_batch_divided_into_shares_trains_as_an_undivided_one(
    two_threads: None, bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[list[int]] = []
    sums = RowParallel.sum
    monkeypatch.setattr(
        RowParallel, "sum", lambda self, losses: (counts.append(list(map(len, losses))), sums(self, losses))[1]
    )
    monkeypatch.setattr(row_parallel, "MAX_TRAINED_TOKENS", 10)
    training = {"batch_size": 8, "max_steps": 6, "learning_rate": 1e-3, "lora_dropout": 0.0}
    in_shares = bench_of(**training).to(Step.TRAIN)
    torch.set_num_threads(1)
    in_one_thread = bench_of(**training).to(Step.TRAIN)
    assert {len(parts) for parts in counts} == {1, 2}
    assert all(shares > 1 for parts in counts for shares in parts)
    monkeypatch.setattr(row_parallel, "MAX_TRAINED_TOKENS", 10**9)
    undivided = bench_of(**training).to(Step.TRAIN)
    for shared in (in_shares, in_one_thread):
        assert shared.curve() == [(step, pytest.approx(loss, rel=1e-4)) for step, loss in undivided.curve()]


def test_only_models_whose_random_numbers_are_all_ours_use_parts(tmp_path: Path) -> None:
    folder = tiny_gemma.build(tmp_path / "tiny")
    assert not draws_all_random_numbers(model(folder, ours=False))
    ours = model(folder, ours=True)
    assert draws_all_random_numbers(ours)
    ours.config.get_text_config().attention_dropout = 0.1
    assert not draws_all_random_numbers(ours)
