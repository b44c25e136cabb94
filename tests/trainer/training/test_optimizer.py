"""Choice of the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.jobs.status import Step
from gemtune.request.training_config import TrainingConfig
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_interruptions import history
from tests.trainer.steps.test_train import after_steps
from tests.trainer.training.rl_trainers import NO_HOOKS
from trainer.training import job_trainer
from trainer.training.interface import Setup


def optimizer_of(method: str) -> str:
    rl = {"rl_config": {"algorithm": "dpo"}} if method == "RL" else {}
    config = TrainingConfig.model_validate({"base_model_id": "google/gemma-3-270m", "method": method} | rl)
    loaded: Any = None  # the arguments depend on the request alone
    setup = Setup(
        loaded,
        config,
        Path("base"),
        Path("train.parquet"),
        None,
        output=Path("output"),
        total_steps=1,
        max_length=1,
        hooks=NO_HOOKS,
    )
    optimizer: str = job_trainer.arguments(setup)["optim"]
    return optimizer


def optimizer_state_dtypes(bench: Bench) -> set[torch.dtype]:
    """Return the dtypes of the optimizer's state in a checkpoint.

    The state is searched recursively, because bitsandbytes nests what it stores per weight.
    """
    path = next(bench.services.settings.home.rglob("optimizer.pt"))
    unvisited, dtypes = [torch.load(path, weights_only=True, map_location="cpu")["state"]], set()
    while unvisited:
        value = unvisited.pop()
        if isinstance(value, dict):
            unvisited.extend(value.values())
        elif isinstance(value, torch.Tensor):
            dtypes.add(value.dtype)
    return dtypes


@pytest.mark.parametrize("method", ["LoRA", "QLoRA", "RL", "Full"])
@pytest.mark.parametrize("on_gpu", [True, False])
def test_only_full_fine_tuning_on_a_gpu_uses_8_bit_adamw(
    monkeypatch: pytest.MonkeyPatch, method: str, on_gpu: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    expected = "adamw_bnb_8bit" if on_gpu and method == "Full" else "adamw_torch_fused"
    assert optimizer_of(method) == expected


def test_without_bitsandbytes_adamw_has_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(job_trainer, "find_spec", lambda name: None)
    assert optimizer_of("Full") == "adamw_torch_fused"


def test_8_bit_adamw_resumes_from_a_checkpoint(bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run on a CPU, which bitsandbytes supports and our trainings do not use."""
    monkeypatch.setattr(job_trainer, "_optimizer", lambda config, on_gpu: "adamw_bnb_8bit")
    uninterrupted, interrupted = (bench_of(method="Full", learning_rate=1e-3) for _ in range(2))
    uninterrupted.to(Step.TRAIN)
    interrupted.to(Step.PREPARE)
    interrupted.run(Step.TRAIN, should_stop=after_steps(4))
    assert torch.uint8 in optimizer_state_dtypes(interrupted)
    interrupted.run(Step.TRAIN)
    assert history(interrupted) == history(uninterrupted)
    assert interrupted.job.metrics == uninterrupted.job.metrics
