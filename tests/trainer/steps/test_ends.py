"""Where a training ends, by early stopping or by its last train_step, is the same however often it is broken off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gemtune.jobs.status import Step
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_relay import history, same_training
from tests.trainer.steps.test_train import after_steps
from tests.trainer.training.test_dpo import dpo_bench
from trainer.export import tokenizer_files
from trainer.training.sft import SftTrainer

BY_EPOCH = {"eval_strategy": "epoch", "batch_size": 8, "max_steps": 20, "save_steps": 3, "lora_dropout": 0.1}
BenchOf = Callable[..., Bench]


@pytest.mark.parametrize("stopped_at", [[4, 1], [6]], ids=str)
def test_it_stops_when_evaluations_no_longer_get_better(bench_of: Callable[..., Bench], stopped_at: list[int]) -> None:
    """A loss that would have to fall by 100 never does: the second and third evaluation use up the patience."""
    patience = {"early_stopping_patience": 2, "early_stopping_threshold": 100.0}
    bench = bench_of(**patience, eval_strategy="steps", eval_steps=2, max_steps=20).to(Step.PREPARE)
    for count in stopped_at:
        bench.run(Step.TRAIN, should_stop=after_steps(count))
    if bench.job.steps[Step.TRAIN].state != "done":
        bench.run(Step.TRAIN)
    evaluated = [entry["train_step"] for entry in history(bench) if "eval_loss" in entry]
    assert sorted(set(evaluated)) == [2, 4, 6]
    assert bench.job.steps[Step.TRAIN].state == "done"


def lost_before_it_was_done(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill when all is trained and its last checkpoint kept, and the result is not."""
    with monkeypatch.context() as patched:
        patched.setattr(tokenizer_files, "add_tokenizer", crash)
        with pytest.raises(ConnectionError):
            bench.run(Step.TRAIN)


def crash(*_: Any) -> None:
    raise ConnectionError("the network is away")


def test_a_training_that_stopped_early_and_was_lost_stops_at_the_same_train_step(
    overfitting: BenchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {
        "early_stopping_patience": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "max_steps": 40,
    }
    unbroken, lost = overfitting(**training).to(Step.TRAIN), overfitting(**training).to(Step.PREPARE)
    losses = [entry["eval_loss"] for entry in history(unbroken) if "eval_loss" in entry]
    assert 3 < len(losses) < 20
    assert losses[-3] == min(losses)  # the best one, and then patience
    lost_before_it_was_done(lost, monkeypatch)
    lost.run(Step.TRAIN)
    assert same_training(unbroken, lost)


def test_a_training_that_was_lost_after_its_last_checkpoint_makes_no_train_step_more(
    bench_of: BenchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"max_steps": 4, "lr_scheduler_type": "constant", "logging_steps": 3}
    unbroken, lost = bench_of(**training).to(Step.TRAIN), bench_of(**training).to(Step.PREPARE)
    lost_before_it_was_done(lost, monkeypatch)
    lost.run(Step.TRAIN)
    assert same_training(unbroken, lost)
    assert lost.job.steps[Step.TRAIN].checkpoint == 4


def test_reinforcement_learning_that_was_lost_after_its_last_checkpoint_makes_no_train_step_more(
    bench_of: BenchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"max_steps": 3, "lr_scheduler_type": "constant"}
    unbroken, lost = dpo_bench(bench_of, **training).to(Step.TRAIN), dpo_bench(bench_of, **training).to(Step.PREPARE)
    lost_before_it_was_done(lost, monkeypatch)
    lost.run(Step.TRAIN)
    assert same_training(unbroken, lost)
    assert lost.job.metrics is not None
    assert (lost.job.metrics.margin or 0) > 0  # not those of the base model


@pytest.mark.parametrize("stops", [[2], [3], [2, 1, 3, 1]], ids=str)
def test_a_relay_within_or_at_the_end_of_an_epoch_counts_the_evaluations_of_whole_epochs(
    overfitting: BenchOf, stops: list[int]
) -> None:
    training = BY_EPOCH | {"early_stopping_patience": 2, "max_steps": 60}
    unbroken, relayed = overfitting(**training).to(Step.TRAIN), overfitting(**training).to(Step.PREPARE)
    for count in stops:
        relayed.run(Step.TRAIN, should_stop=after_steps(count))
    relayed.run(Step.TRAIN)
    assert same_training(unbroken, relayed)
    assert unbroken.curve()[-1][0] < 60


def test_a_kill_during_the_evaluation_of_an_epoch_does_not_lose_it(
    bench_of: BenchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = BY_EPOCH | {"max_steps": 9}
    unbroken, killed = bench_of(**training).to(Step.TRAIN), bench_of(**training).to(Step.PREPARE)
    asked: list[int] = []
    figures = SftTrainer.figures

    def third(trainer: SftTrainer) -> Any:  # the first is the base model's
        asked.append(trainer.state.global_step)
        return crash() if len(asked) == 3 else figures(trainer)

    with monkeypatch.context() as patched:
        patched.setattr(SftTrainer, "figures", third)
        with pytest.raises(ConnectionError):
            killed.run(Step.TRAIN)
    assert asked == [0, 3, 6]
    killed.run(Step.TRAIN)
    assert same_training(unbroken, killed)
