"""A training ends at the same train_step however often it is interrupted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from gemtune.jobs.status import Step
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_interruptions import history, same_training
from tests.trainer.steps.test_train import after_steps
from tests.trainer.training.test_dpo import dpo_bench
from trainer.context import StopRequested
from trainer.export import tokenizer_files
from trainer.training.sft import SftTrainer

BY_EPOCH = {"eval_strategy": "epoch", "batch_size": 8, "max_steps": 20, "save_steps": 3, "lora_dropout": 0.1}
BenchOf = Callable[..., Bench]


@pytest.mark.parametrize("stopped_at", [[4, 1], [6]], ids=str)
def test_a_training_stops_early_once_evaluations_no_longer_improve(
    bench_of: Callable[..., Bench], stopped_at: list[int]
) -> None:
    """No evaluation improves by 100, so patience runs out after two more."""
    patience = {"early_stopping_patience": 2, "early_stopping_threshold": 100.0}
    bench = bench_of(**patience, eval_strategy="steps", eval_steps=2, max_steps=20).to(Step.PREPARE)
    for count in stopped_at:
        with suppress(StopRequested):  # by the evaluation after the last train_step
            bench.run(Step.TRAIN, should_stop=after_steps(count))
    if bench.job.steps[Step.TRAIN].state != "done":
        bench.run(Step.TRAIN)
    evaluated = [entry["train_step"] for entry in history(bench) if "eval_loss" in entry]
    assert sorted(set(evaluated)) == [2, 4, 6]
    assert bench.job.steps[Step.TRAIN].state == "done"


def crash_before_publishing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crash between the last checkpoint and the publication of the result."""
    with monkeypatch.context() as patched:
        patched.setattr(tokenizer_files, "add_tokenizer", crash)
        with pytest.raises(ConnectionError):
            bench.run(Step.TRAIN)


def crash(*_: Any) -> None:
    raise ConnectionError("the network is away")


def test_a_crash_after_early_stopping_stops_at_the_same_train_step(
    overfitting: BenchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {
        "early_stopping_patience": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "max_steps": 40,
    }
    uninterrupted, crashed = overfitting(**training).to(Step.TRAIN), overfitting(**training).to(Step.PREPARE)
    losses = [entry["eval_loss"] for entry in history(uninterrupted) if "eval_loss" in entry]
    assert 3 < len(losses) < 20
    assert losses[-3] == min(losses)  # the best evaluation, and then two without improvement
    crash_before_publishing(crashed, monkeypatch)
    crashed.run(Step.TRAIN)
    assert same_training(uninterrupted, crashed)


def test_a_crash_after_the_last_checkpoint_repeats_no_train_step(
    bench_of: BenchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"max_steps": 4, "lr_scheduler_type": "constant", "logging_steps": 3}
    uninterrupted, crashed = bench_of(**training).to(Step.TRAIN), bench_of(**training).to(Step.PREPARE)
    crash_before_publishing(crashed, monkeypatch)
    crashed.run(Step.TRAIN)
    assert same_training(uninterrupted, crashed)
    assert crashed.job.steps[Step.TRAIN].checkpoint == 4


def test_a_crash_of_rl_after_the_last_checkpoint_repeats_no_train_step(
    bench_of: BenchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"max_steps": 3, "lr_scheduler_type": "constant"}
    uninterrupted, crashed = (
        dpo_bench(bench_of, **training).to(Step.TRAIN),
        dpo_bench(bench_of, **training).to(Step.PREPARE),
    )
    crash_before_publishing(crashed, monkeypatch)
    crashed.run(Step.TRAIN)
    assert same_training(uninterrupted, crashed)
    assert crashed.job.metrics is not None
    assert (crashed.job.metrics.margin or 0) > 0  # the trained model's metrics, not the base model's


@pytest.mark.parametrize("stops", [[2], [3], [2, 1, 3, 1]], ids=str)
def test_interruptions_within_an_epoch_keep_its_evaluation(
    overfitting: BenchOf, overfitted_once: BenchOf, stops: list[int]
) -> None:
    training = BY_EPOCH | {"early_stopping_patience": 2, "max_steps": 60}
    uninterrupted, interrupted = overfitted_once(**training), overfitting(**training).to(Step.PREPARE)
    for count in stops:
        interrupted.run(Step.TRAIN, should_stop=after_steps(count))
    interrupted.run(Step.TRAIN)
    assert same_training(uninterrupted, interrupted)
    assert uninterrupted.curve()[-1][0] < 60


def test_a_crash_during_the_evaluation_of_an_epoch_does_not_lose_it(
    bench_of: BenchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = BY_EPOCH | {"max_steps": 9}
    uninterrupted, crashed = bench_of(**training).to(Step.TRAIN), bench_of(**training).to(Step.PREPARE)
    evaluated_at: list[int] = []
    figures = SftTrainer.evaluation_metrics

    def crash_at_third(trainer: SftTrainer) -> Any:  # the first is the base model's
        evaluated_at.append(trainer.state.global_step)
        return crash() if len(evaluated_at) == 3 else figures(trainer)

    with monkeypatch.context() as patched:
        patched.setattr(SftTrainer, "evaluation_metrics", crash_at_third)
        with pytest.raises(ConnectionError):
            crashed.run(Step.TRAIN)
    assert evaluated_at == [0, 3, 6]
    crashed.run(Step.TRAIN)
    assert same_training(uninterrupted, crashed)
