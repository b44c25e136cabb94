"""A training that is to end with its best evaluation's weights does, however it went on and was broken off."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gemtune.jobs.status import Step
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_relay import history, same_training
from tests.trainer.steps.test_train import adapter, after_steps
from tests.trainer.training.test_grpo import HAS_AN_E, grpo_bench
from trainer.store import checkpoints

BenchOf = Callable[..., Bench]
STEPS = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 5}


def evaluated(bench: Bench, name: str = "eval_loss") -> dict[int, float]:
    return {entry["train_step"]: entry[name] for entry in history(bench) if name in entry}


def best_step(bench: Bench) -> int:
    losses = evaluated(bench)
    return min(losses, key=lambda train_step: losses[train_step])


def trained_until(train_step: int, bench_of: BenchOf, **training: Any) -> Bench:
    """The same training, ended by max_steps: the learning rate is constant."""
    return bench_of(**training | {"max_steps": train_step, "early_stopping_patience": None}).to(Step.TRAIN)


@pytest.mark.parametrize("stops", [[], [9], [3, 1, 8]], ids=str)
def test_early_stopping_ends_with_the_best_weights(overfitting: BenchOf, stops: list[int]) -> None:
    """With patience for four evaluations, two newer checkpoints are there when it stops."""
    training = STEPS | {"early_stopping_patience": 4, "max_steps": 60, "lora_dropout": 0.1}
    bench = overfitting(**training).to(Step.PREPARE)
    for count in stops:
        bench.run(Step.TRAIN, should_stop=after_steps(count))
    bench.run(Step.TRAIN)
    last, best = max(evaluated(bench)), best_step(bench)
    assert 2 <= best == last - 8
    assert bench.job.metrics is not None
    assert bench.job.metrics.train_step == best
    assert bench.job.metrics.eval_loss == evaluated(bench)[best]
    short = trained_until(best, overfitting, **training)
    of_short, of_best = adapter(short), adapter(bench, bench.job.steps[Step.TRAIN].attempt)
    assert all(torch.equal(of_short[name], of_best[name]) for name in of_short)


def test_epochs_and_no_early_stopping_end_with_the_best_weights_when_asked_to(overfitting: BenchOf) -> None:
    training = {"eval_strategy": "epoch", "batch_size": 8, "max_steps": 24, "load_best_model_at_end": True}
    bench = overfitting(**training).to(Step.TRAIN)
    best = best_step(bench)
    assert best < 24
    assert bench.job.metrics is not None
    assert (bench.job.metrics.train_step, bench.job.metrics.eval_loss) == (best, evaluated(bench)[best])


@pytest.mark.parametrize("asked", [None, False])
def test_the_last_weights_stay_where_the_best_are_not_asked_for(overfitting: BenchOf, asked: bool | None) -> None:
    patience = {} if asked is None else {"early_stopping_patience": 2}
    bench = overfitting(**STEPS | patience, max_steps=14, load_best_model_at_end=asked).to(Step.TRAIN)
    last = max(evaluated(bench))
    assert best_step(bench) < last
    assert bench.job.metrics is not None
    assert (bench.job.metrics.train_step, bench.job.metrics.eval_loss) == (last, evaluated(bench)[last])


def test_the_last_weights_stay_when_they_are_the_best_though_no_evaluation_fell_on_them(bench_of: BenchOf) -> None:
    bench = bench_of(**STEPS, max_steps=7, load_best_model_at_end=True).to(Step.TRAIN)
    losses = evaluated(bench)
    assert list(losses) == [2, 4, 6, 7]
    assert min(losses.values()) == losses[7]
    assert bench.job.metrics is not None
    assert (bench.job.metrics.train_step, bench.job.metrics.eval_loss) == (7, losses[7])


def test_all_weights_trained_end_as_the_best(overfitting: BenchOf) -> None:
    training = STEPS | {"method": "Full", "early_stopping_patience": 3, "max_steps": 60}
    bench = overfitting(**training).to(Step.TRAIN)
    best = best_step(bench)
    assert best < max(evaluated(bench))
    short = trained_until(best, overfitting, **training)
    folders = [Path(b.services.buckets.export.uri(f"jobs/{b.job_id}/model/1")) for b in (short, bench)]
    of_short, of_best = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(of_short[name], of_best[name]) for name in of_short)
    assert bench.job.metrics is not None
    assert bench.job.metrics.eval_loss == evaluated(bench)[best]


def test_the_best_reward_is_the_highest(bench_of: BenchOf, confident_tiny: Path) -> None:
    """A penalty, so that what it is trained for and what it is judged by fall apart as it learns too fast."""
    training = {"learning_rate": 0.05, "lr_scheduler_type": "constant", "max_steps": 10, "load_best_model_at_end": True}
    bench = grpo_bench(
        bench_of, confident_tiny, HAS_AN_E | {"pattern": "^.?e"}, **training, eval_strategy="steps", eval_steps=1
    ).to(Step.TRAIN)
    found = evaluated(bench, "reward")
    best = max(found, key=lambda train_step: found[train_step])
    assert bench.job.metrics is not None
    assert (bench.job.metrics.train_step, bench.job.metrics.reward) == (best, found[best])


def test_a_relay_of_short_ends_keeps_the_best_and_the_curve(overfitting: BenchOf) -> None:
    training = STEPS | {"early_stopping_patience": 3, "max_steps": 60, "logging_steps": 3, "lora_dropout": 0.1}
    unbroken, relayed = overfitting(**training).to(Step.TRAIN), overfitting(**training).to(Step.PREPARE)
    while relayed.job.steps[Step.TRAIN].state != "done":
        relayed.run(Step.TRAIN, should_stop=after_steps(3))
    assert same_training(unbroken, relayed)


def test_a_best_checkpoint_that_is_gone_costs_the_best_weights_and_no_more(
    overfitting: BenchOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoints, "at_train_step", lambda *_: None)
    with caplog.at_level(logging.WARNING):
        bench = overfitting(**STEPS, early_stopping_patience=2, max_steps=60).to(Step.TRAIN)
    last = max(evaluated(bench))
    assert bench.job.metrics is not None
    assert (bench.job.metrics.train_step, bench.job.metrics.eval_loss) == (last, evaluated(bench)[last])
    assert f"train_step {best_step(bench)}, which evaluated best, is gone" in caplog.text
