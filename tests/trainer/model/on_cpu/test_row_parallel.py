"""A batch's rows in several threads: the same loss and gradients, the same weights every time."""

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
from trainer.model.hidden_states import predictions
from trainer.model.loss_head import cross_entropy_sum
from trainer.model.on_cpu import row_parallel
from trainer.model.on_cpu.install import draws_alone
from trainer.model.on_cpu.row_parallel import AT_LEAST, SideBySide, generator, parts_of, shares_of
from trainer.training import batches, sft
from trainer.training.batches import filled_up, flattened, some_rows


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads, however small the model is."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(row_parallel, "AT_LEAST", 0)
    yield
    torch.set_num_threads(before)


def test_every_row_is_in_one_part_and_no_part_is_much_larger() -> None:
    chance = random.Random(0)
    counts = set()
    for _ in range(300):
        lengths = [chance.randint(1, 400) for _ in range(chance.randint(1, 12))]
        threads = chance.choice([1, 2, 3, 4, 8])
        parts = parts_of(lengths, width=AT_LEAST, threads=threads)
        assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
        assert all(part == sorted(part) for part in parts)
        assert threads % len(parts) == 0
        largest = max(sum(lengths[row] for row in part) for part in parts)
        assert largest * len(parts) <= row_parallel.UNEVEN * sum(lengths)
        counts.add(len(parts))
    assert counts == {1, 2, 3, 4, 8}


@pytest.mark.parametrize(
    ("lengths", "width", "threads", "count"),
    [
        ([128, 128], AT_LEAST // 128, 2, 2),
        ([128, 128], AT_LEAST // 128 - 1, 2, 1),  # too little for a thread each
        ([1000, 50, 50], AT_LEAST, 2, 1),  # one would wait for the other
        ([100, 100], AT_LEAST, 3, 1),  # and a third core would have nothing
        ([100, 100], AT_LEAST, 4, 2),
        ([400], AT_LEAST, 2, 1),
    ],
)
def test_there_are_as_many_parts_as_pay(lengths: list[int], width: int, threads: int, count: int) -> None:
    assert len(parts_of(lengths, width=width, threads=threads)) == count


def test_two_parts_are_about_as_even_as_they_can_be() -> None:
    chance, unevenness = random.Random(0), []
    for _ in range(60):
        lengths = [chance.randint(120, 360) for _ in range(8)]
        first, second = (sum(lengths[row] for row in part) for part in parts_of(lengths, width=AT_LEAST, threads=2))
        sums = [sum(some) for count in range(9) for some in combinations(lengths, count)]
        unevenness.append((max(first, second) - min(max(half, sum(lengths) - half) for half in sums)) / sum(lengths))
    assert sum(unevenness) / 60 < 0.002


def test_parts_are_even_by_what_their_rows_cost() -> None:
    """The head is for trained tokens only."""
    given = [
        {"input_ids": [5] * 100, "labels": [-100] * (100 - trained) + [5] * trained} for trained in (80, 0, 20, 60)
    ]
    batch = flattened([given])
    assert batches.trained_of_rows(batch) == [80, 0, 20, 60]
    costs = [100 + 2 * trained for trained in batches.trained_of_rows(batch)]
    assert sorted(parts_of([100] * 4, costs, width=AT_LEAST, threads=2)) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("lengths", "trained", "width", "shares"),
    [
        ([200, 200], [192, 193], AT_LEAST // 200 + 1, [[0], [1]]),
        ([200, 200], [192, 192], AT_LEAST // 200 + 1, [[0, 1]]),
        ([200, 200], [192, 193], AT_LEAST // 200, [[0, 1]]),  # too little to go through all weights for
        ([900, 900, 900], [90, 90, 90], AT_LEAST, [[0, 1, 2]]),
        ([1000], [1000], AT_LEAST, [[0]]),  # a row is not divided
        ([300, 300, 100, 100], [300, 300, 100, 100], AT_LEAST, [[0], [1], [2, 3]]),
    ],
)
def test_a_part_goes_in_shares_of_not_too_many_trained_tokens(
    lengths: list[int], trained: list[int], width: int, shares: list[list[int]]
) -> None:
    """Rows 1, 2, … of the batch are another part's."""
    part = range(0, 2 * len(lengths), 2)
    of_batch = [[each for value in values for each in (value, 7)] for values in (lengths, trained)]
    found = shares_of(part, *of_batch, [2.0 * length for length in of_batch[0]], width=width)
    assert sorted(found) == [[2 * row for row in share] for share in shares]


def test_a_trained_token_costs_the_head_beside_the_layers(tmp_path: Path) -> None:
    """Forward and backward, as PyTorch counts the operations of one token."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    made = AutoModelForCausalLM.from_pretrained(tiny_gemma.build(tmp_path / "tiny")).requires_grad_(False)
    token = torch.tensor([[5]])
    with FlopCounterMode(display=False) as whole:
        made(token)
    with FlopCounterMode(display=False) as layers:
        made.model(token)
    head = whole.get_total_flops() - layers.get_total_flops()
    assert sft._head_cost(made) == pytest.approx(head / (2 * layers.get_total_flops()), rel=0.05)


def test_some_rows_of_a_batch_are_a_batch_of_these_rows() -> None:
    given = rows()
    found, expected = some_rows(flattened([given]), [0, 3]), flattened([[given[0], given[3]]])
    assert found.keys() == expected.keys()
    assert found["row_lengths"] == expected["row_lengths"]
    assert all(torch.equal(found[name], expected[name]) for name in found if name != "row_lengths")


def test_a_batch_is_filled_up_by_a_row_that_is_not_trained_on() -> None:
    given = flattened([rows()])
    tokens = sum(given["row_lengths"])
    found = filled_up(given, tokens - 1)
    assert found["row_lengths"] == [*given["row_lengths"], tokens - 2]
    assert (found["shift_labels"][:, tokens:] == -100).all()
    assert found["position_ids"][0, tokens:].tolist() == list(range(tokens - 2))
    assert all(torch.equal(found[name][:, :tokens], given[name]) for name in found if name != "row_lengths")
    assert filled_up(given, tokens)["row_lengths"] == given["row_lengths"]


def in_two(trained: Any, dtype: torch.dtype = torch.float32) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of the rows in two parts."""

    def loss(part: list[int]) -> torch.Tensor:
        found = predictions(trained, some_rows(flattened([rows()]), part), dtype)
        return cross_entropy_sum(found.hidden, found.head, found.targets, soft_cap=found.soft_cap)

    trained.zero_grad()
    wanted = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    total = SideBySide(wanted).sum([[lambda: loss([0, 2])], [lambda: loss([1]), lambda: loss([3])]])
    (3 * total).backward()
    return total.item(), [parameter.grad / 3 for parameter in wanted if parameter.grad is not None]


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3"])
def test_parts_have_the_loss_and_the_gradients_of_the_whole(two_threads: None, tmp_path: Path, family: str) -> None:
    trained = model(tiny_gemma.build(tmp_path / family, family), ours=True)
    expected, of_whole = loss_and_gradients(trained, flattened([rows()]))
    found, of_parts = in_two(trained)
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(of_parts) == len(of_whole) > 0
    for gradient, whole in zip(of_parts, of_whole, strict=True):
        torch.testing.assert_close(gradient, whole, rtol=1e-3, atol=2e-5)


def test_what_is_dropped_is_decided_by_the_seed_and_not_by_who_comes_first(two_threads: None, tmp_path: Path) -> None:
    trained = model(tiny_gemma.build(tmp_path / "tiny"), ours=True, dropout=0.5, dtype=torch.bfloat16)
    found = []
    for seed in (1, 1, 1, 1, 2):
        torch.manual_seed(seed)
        found.append((*in_two(trained, torch.bfloat16), torch.rand(1)))
    loss, gradients, next_draw = found[0]
    for again in found[1:4]:
        assert again[0] == loss
        assert all(torch.equal(a, b) for a, b in zip(again[1], gradients, strict=True))
        assert again[2] == next_draw
    assert found[4][0] != loss


def test_parts_draw_different_numbers_and_other_threads_draw_as_ever(two_threads: None) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    draws: list[torch.Tensor] = []

    def loss() -> torch.Tensor:
        draws.append(torch.rand(8, generator=generator()))
        return weight.sum()

    SideBySide([weight]).sum([[loss], [loss]])
    assert not torch.equal(*draws)
    assert generator() is None


def test_an_error_in_a_part_is_raised_and_leaves_the_threads_as_they_were(two_threads: None) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    threads = []

    def fails() -> torch.Tensor:
        threads.append(torch.get_num_threads())
        raise ValueError("as it must")

    parts = SideBySide([weight])
    with pytest.raises(ValueError, match="as it must"):
        parts.sum([[weight.sum], [weight.sum, fails]])
    assert (threads, torch.get_num_threads(), weight.grad) == ([1], 2, None)
    parts.sum([[weight.sum], [weight.sum]]).backward()
    assert weight.grad == 2


def test_a_weight_without_a_gradient_gets_none(two_threads: None) -> None:
    used, other = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    SideBySide([used, other]).sum([[used.sum, used.sum], [used.sum]]).backward()
    assert used.grad == 3
    assert other.grad is None


def test_a_training_in_parts_is_the_training_of_the_whole_and_goes_on_to_the_same_weights(
    two_threads: None, bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    sums = SideBySide.sum
    monkeypatch.setattr(SideBySide, "sum", lambda self, losses: (counts.append(len(losses)), sums(self, losses))[1])
    training = {"batch_size": 4, "max_steps": 8, "save_steps": 3, "learning_rate": 1e-3}
    dropping = bench_of(**training, lora_dropout=0.2).to(Step.TRAIN)
    broken = bench_of(**training, lora_dropout=0.2).to(Step.PREPARE)
    broken.run(Step.TRAIN, should_stop=after_steps(4))
    broken.run(Step.TRAIN)
    assert broken.curve() == dropping.curve()
    before, after = adapter(dropping), adapter(broken, attempt=2)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert counts == [2] * 16

    in_parts = bench_of(**training, lora_dropout=0.0).to(Step.TRAIN)
    assert len(counts) == 24
    torch.set_num_threads(1)
    whole = bench_of(**training, lora_dropout=0.0).to(Step.TRAIN)
    assert len(counts) == 24
    assert in_parts.curve() == [(step, pytest.approx(loss, rel=1e-4)) for step, loss in whole.curve()]


def test_a_training_that_computes_layers_again_goes_through_them_whole(
    two_threads: None, bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is computed again draws again, from the default generator."""
    monkeypatch.setattr(sft.gradient_checkpointing, "SMALL", 0)
    monkeypatch.setattr(sft.gradient_checkpointing, "SHARE_OF_MAIN_MEMORY", 0)
    monkeypatch.setattr(SideBySide, "sum", lambda *_: pytest.fail("in parts"))
    bench_of(batch_size=4, max_steps=1).to(Step.TRAIN)


def test_a_large_batch_is_trained_on_as_if_it_went_at_once(
    two_threads: None, bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[list[int]] = []
    sums = SideBySide.sum
    monkeypatch.setattr(
        SideBySide, "sum", lambda self, losses: (counts.append(list(map(len, losses))), sums(self, losses))[1]
    )
    monkeypatch.setattr(row_parallel, "TRAINED_AT_MOST", 10)
    training = {"batch_size": 8, "max_steps": 6, "learning_rate": 1e-3, "lora_dropout": 0.0}
    in_shares = bench_of(**training).to(Step.TRAIN)
    torch.set_num_threads(1)
    in_one_thread = bench_of(**training).to(Step.TRAIN)
    assert {len(each) for each in counts} == {1, 2}
    assert all(shares > 1 for each in counts for shares in each)
    monkeypatch.setattr(row_parallel, "TRAINED_AT_MOST", 10**9)
    whole = bench_of(**training).to(Step.TRAIN)
    for shared in (in_shares, in_one_thread):
        assert shared.curve() == [(step, pytest.approx(loss, rel=1e-4)) for step, loss in whole.curve()]


def test_only_models_whose_random_numbers_are_all_drawn_here_go_in_parts(tmp_path: Path) -> None:
    folder = tiny_gemma.build(tmp_path / "tiny")
    assert not draws_alone(model(folder, ours=False))
    ours = model(folder, ours=True)
    assert draws_alone(ours)
    ours.config.get_text_config().attention_dropout = 0.1
    assert not draws_alone(ours)
