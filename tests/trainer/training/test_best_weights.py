"""A training ends with its best evaluation's weights, even after resuming."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gemtune.jobs.status import Step
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_interruptions import history, same_training
from tests.trainer.steps.test_train import adapter, after_steps
from tests.trainer.training.test_grpo import HAS_AN_E, grpo_bench
from trainer.store import checkpoints
from trainer.training import best_weights

BenchOf = Callable[..., Bench]
STEPS = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 5}


def evaluations(bench: Bench, name: str = "eval_loss") -> dict[int, float]:
    return {entry["train_step"]: entry[name] for entry in history(bench) if name in entry}


def best_step(bench: Bench) -> int:
    losses = evaluations(bench)
    return min(losses, key=lambda train_step: losses[train_step])


def until(train_step: int, training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the same training up to an earlier train_step.

    Only max_steps differs; the schedule is the same because the learning rate is constant.
    """
    return {**training, "max_steps": train_step, "early_stopping_patience": None}


@pytest.mark.parametrize("stops", [[], [9], [3, 1, 8]], ids=str)
def test_early_stopping_ends_with_the_best_weights(
    overfitting: BenchOf, overfitted_once: BenchOf, stops: list[int]
) -> None:
    """Two checkpoints are newer than the best one when the training stops."""
    training = STEPS | {"early_stopping_patience": 4, "max_steps": 60, "lora_dropout": 0.1}
    bench = overfitting(**training).to(Step.PREPARE)
    for count in stops:
        bench.run(Step.TRAIN, should_stop=after_steps(count))
    bench.run(Step.TRAIN)
    last, best = max(evaluations(bench)), best_step(bench)
    assert 2 <= best == last - 8
    assert bench.job.metrics is not None
    assert bench.job.metrics.train_step == best
    assert bench.job.metrics.eval_loss == evaluations(bench)[best]
    short = overfitted_once(**until(best, training))
    short_weights, best_weights = adapter(short), adapter(bench, bench.job.steps[Step.TRAIN].attempt)
    assert all(torch.equal(short_weights[name], best_weights[name]) for name in short_weights)


def test_a_training_without_early_stopping_ends_with_the_best_weights_on_request(overfitting: BenchOf) -> None:
    training = {"eval_strategy": "epoch", "batch_size": 8, "max_steps": 75, "load_best_model_at_end": True}
    bench = overfitting(**training).to(Step.TRAIN)
    best = best_step(bench)
    assert best < 75
    assert bench.job.metrics is not None
    assert (bench.job.metrics.train_step, bench.job.metrics.eval_loss) == (best, evaluations(bench)[best])


@pytest.mark.parametrize("load_best", [None, False])
def test_the_last_weights_are_kept_unless_the_best_are_requested(overfitting: BenchOf, load_best: bool | None) -> None:
    patience = {} if load_best is None else {"early_stopping_patience": 2}
    bench = overfitting(**STEPS | patience, max_steps=14, load_best_model_at_end=load_best).to(Step.TRAIN)
    last = max(evaluations(bench))
    assert best_step(bench) < last
    assert bench.job.metrics is not None
    assert (bench.job.metrics.train_step, bench.job.metrics.eval_loss) == (last, evaluations(bench)[last])


def test_the_last_weights_are_kept_when_only_the_final_evaluation_shows_them_best(bench_of: BenchOf) -> None:
    bench = bench_of(**STEPS, max_steps=7, load_best_model_at_end=True).to(Step.TRAIN)
    losses = evaluations(bench)
    assert list(losses) == [2, 4, 6, 7]
    assert min(losses.values()) == losses[7]
    assert bench.job.metrics is not None
    assert (bench.job.metrics.train_step, bench.job.metrics.eval_loss) == (7, losses[7])


def test_full_fine_tuning_ends_with_the_best_weights(overfitting: BenchOf) -> None:
    training = STEPS | {"method": "Full", "early_stopping_patience": 3, "max_steps": 60}
    bench = overfitting(**training).to(Step.TRAIN)
    best = best_step(bench)
    assert best < max(evaluations(bench))
    short = overfitting(**until(best, training)).to(Step.TRAIN)
    folders = [Path(b.services.buckets.export.uri(f"jobs/{b.job_id}/model/1")) for b in (short, bench)]
    short_weights, best_weights = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(short_weights[name], best_weights[name]) for name in short_weights)
    assert bench.job.metrics is not None
    assert bench.job.metrics.eval_loss == evaluations(bench)[best]


def test_the_best_reward_is_the_highest(bench_of: BenchOf, confident_tiny: Path) -> None:
    """The penalty makes the reward fall once the model learns too fast."""
    training = {"learning_rate": 0.05, "lr_scheduler_type": "constant", "max_steps": 10, "load_best_model_at_end": True}
    bench = grpo_bench(
        bench_of, confident_tiny, HAS_AN_E | {"pattern": "^.?e"}, **training, eval_strategy="steps", eval_steps=1
    ).to(Step.TRAIN)
    rewards = evaluations(bench, "reward")
    highest, last = max(rewards.values()), max(rewards)
    # The last weights stay if no evaluation is better than theirs; on some processors a few rewards are equal.
    best = last if rewards[last] == highest else min(step for step in rewards if rewards[step] == highest)
    assert bench.job.metrics is not None
    assert (bench.job.metrics.train_step, bench.job.metrics.reward) == (best, rewards[best])


def test_a_training_interrupted_many_times_keeps_the_best_weights_and_the_curve(overfitting: BenchOf) -> None:
    training = STEPS | {"early_stopping_patience": 3, "max_steps": 60, "logging_steps": 3, "lora_dropout": 0.1}
    uninterrupted, interrupted = overfitting(**training).to(Step.TRAIN), overfitting(**training).to(Step.PREPARE)
    while interrupted.job.steps[Step.TRAIN].state != "done":
        interrupted.run(Step.TRAIN, should_stop=after_steps(3))
    assert same_training(uninterrupted, interrupted)


def test_a_missing_best_checkpoint_leaves_the_last_weights(
    overfitting: BenchOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoints, "at_train_step", lambda *_: None)
    with caplog.at_level(logging.WARNING):
        bench = overfitting(**STEPS, early_stopping_patience=2, max_steps=60).to(Step.TRAIN)
    last = max(evaluations(bench))
    assert bench.job.metrics is not None
    assert (bench.job.metrics.train_step, bench.job.metrics.eval_loss) == (last, evaluations(bench)[last])
    assert f"train_step {best_step(bench)}, which evaluated best, is gone" in caplog.text


@pytest.mark.parametrize("loss", [1.5, 2.5])
def test_a_copy_of_a_checkpoint_is_removed_once_its_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    """Save memory where the local disk is memory."""

    def copy(export: Any, prefix: str, train_step: int, into: Path) -> Path:
        into.mkdir()
        (into / "weights").touch()
        return into

    monkeypatch.setattr(checkpoints, "at_train_step", copy)
    loaded: list[str] = []
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(metric_for_best_model="eval_loss", greater_is_better=False),
        state=SimpleNamespace(best_global_step=4, best_metric=2.0),
        _load_from_checkpoint=loaded.append,
    )
    into = tmp_path / "best"
    restored = best_weights.restore(trainer, {"eval_loss": loss}, None, "jobs/a", into)  # type: ignore[arg-type]
    assert (restored, loaded) == ((4, [str(into)]) if loss > 2.0 else (None, []))
    assert not into.exists()
