"""Reinforcement learning on a GPU, in bfloat16 with gradient checkpointing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.jobs.status import Step
from tests import preference_rows, rows, tiny_gemma
from tests.gpu.conftest import convert_to_bf16
from tests.trainer.conftest import Bench

pytestmark = pytest.mark.gpu


@pytest.fixture
def tiny_bf16(tmp_path: Path) -> Path:
    """Return a tiny model in bfloat16 that can be trained by RL."""
    return convert_to_bf16(tiny_gemma.build(tmp_path / "bf16"))


def run_job(home: Path, base: Path, rl: dict[str, Any], content: Any, **training: Any) -> Bench:
    assert torch.cuda.is_available()
    bench = Bench(home, base, method="RL", rl_config=rl, **training)
    bench.put("train", content(rows.train_rows(24)))
    bench.put("eval", content(rows.held_out_rows(8)))
    return bench.to(Step.EXPORT)


def test_the_margin_rises(tmp_path: Path, tiny_bf16: Path) -> None:
    metrics = run_job(tmp_path / "home", tiny_bf16, {"algorithm": "dpo"}, preference_rows.pairs).job.metrics
    assert metrics is not None
    assert metrics.margin is not None
    assert metrics.margin > 0.5
    assert metrics.preference_accuracy == 1


def test_the_reward_rises(tmp_path: Path, tiny_bf16: Path) -> None:
    rl = {
        "algorithm": "grpo",
        "num_generations": 4,
        "max_completion_length": 6,
        "beta": 0.01,
        "rewards": [{"type": "regex", "pattern": "e"}],
    }
    training = {"batch_size": 16, "learning_rate": 0.02, "max_steps": 20}
    metrics = run_job(tmp_path / "home", tiny_bf16, rl, preference_rows.prompts, **training).job.metrics
    assert metrics is not None
    assert metrics.reward is not None
    assert metrics.baseline is not None
    assert metrics.reward > (metrics.baseline.reward or 0) + 0.3
