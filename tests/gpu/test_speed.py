"""Speed and memory on a GPU: Liger's kernels and 8-bit AdamW."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.jobs.status import Step
from tests.gpu.conftest import convert_to_bf16
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_interruptions import history
from tests.trainer.steps.test_train import after_steps
from tests.trainer.training.test_optimizer import optimizer_state_dtypes
from trainer.model import liger

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("method", ["LoRA", "Full"])
def test_losses_with_and_without_liger_agree(
    bench_of: Callable[..., Bench], tiny: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    pytest.importorskip("liger_kernel.ops")
    convert_to_bf16(tiny)
    installed: list[Any] = []
    install = liger.install

    def install_and_record(model: Any) -> None:
        install(model)
        installed.extend(module for module in model.modules() if "forward" in vars(module))

    def losses() -> list[float]:
        bench = bench_of(method=method, learning_rate=1e-3, lora_dropout=0.0).to(Step.TRAIN)
        return [entry["loss"] for entry in history(bench) if "loss" in entry]

    monkeypatch.setattr(liger, "install", install_and_record)
    by_liger = losses()
    assert installed
    monkeypatch.setattr(liger, "install", lambda model: None)
    assert losses() == pytest.approx(by_liger, rel=1e-2)


def test_8_bit_adamw_learns_and_resumes_from_a_checkpoint(bench_of: Callable[..., Bench], tiny: Path) -> None:
    convert_to_bf16(tiny)
    bench = bench_of(method="Full", learning_rate=1e-3, max_steps=30).to(Step.PREPARE)
    bench.run(Step.TRAIN, should_stop=after_steps(10))
    assert torch.uint8 in optimizer_state_dtypes(bench)
    bench.run(Step.TRAIN)
    losses = [entry["loss"] for entry in history(bench) if "loss" in entry]
    assert len(losses) == 30
    assert losses[-1] < losses[0]
