"""Which optimizer a training gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.jobs.status import Step
from gemtune.request.spec import TrainingConfig
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_relay import history
from tests.trainer.steps.test_train import after_steps
from tests.trainer.training.test_dpo import UNTOLD
from trainer.training import job_trainer
from trainer.training.interface import Setup


def chosen(method: str) -> str:
    rl = {"rl_config": {"algorithm": "dpo"}} if method == "RL" else {}
    config = TrainingConfig.model_validate({"base_model_id": "google/gemma-3-270m", "method": method} | rl)
    loaded: Any = None  # arguments follow from the request alone
    setup = Setup(
        loaded,
        config,
        Path("base"),
        Path("train.parquet"),
        None,
        output=Path("output"),
        total_steps=1,
        max_length=1,
        hooks=UNTOLD,
    )
    found: str = job_trainer.arguments(setup)["optim"]
    return found


def kept_as(bench: Bench) -> set[torch.dtype]:
    """Of the moments in a checkpoint. bitsandbytes nests what it keeps of a weight."""
    kept = next(bench.services.settings.home.rglob("optimizer.pt"))
    waiting, found = [torch.load(kept, weights_only=True, map_location="cpu")["state"]], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, torch.Tensor):
            found.add(value.dtype)
    return found


@pytest.mark.parametrize("method", ["LoRA", "QLoRA", "RL", "Full"])
@pytest.mark.parametrize("on_gpu", [True, False])
def test_moments_have_8_bits_where_all_weights_are_trained_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, method: str, on_gpu: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    expected = "adamw_bnb_8bit" if on_gpu and method == "Full" else "adamw_torch_fused"
    assert chosen(method) == expected


def test_without_bitsandbytes_they_have_32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(job_trainer, "find_spec", lambda name: None)
    assert chosen("Full") == "adamw_torch_fused"


def test_moments_of_8_bits_go_on_from_a_checkpoint(
    bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """bitsandbytes has them on a CPU, too, where no training of ours uses them."""
    monkeypatch.setattr(job_trainer, "_optimizer", lambda config, on_gpu: "adamw_bnb_8bit")
    whole, broken = (bench_of(method="Full", learning_rate=1e-3) for _ in range(2))
    whole.to(Step.TRAIN)
    broken.to(Step.PREPARE)
    broken.run(Step.TRAIN, should_stop=after_steps(4))
    assert torch.uint8 in kept_as(broken)
    broken.run(Step.TRAIN)
    assert history(broken) == history(whole)
    assert broken.job.metrics == whole.job.metrics
