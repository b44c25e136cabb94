"""Vision on a GPU: the CPU tests' jobs, with tolerances for bf16 and kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gemtune.jobs.status import Step
from tests.trainer.conftest import Bench
from tests.trainer.training.test_rl_vision import DPO, pair, rl_bench
from tests.trainer.training.test_vision import LEARNING, RIGHT, answers_of, held_out_from_logits, weights

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("method", ["LoRA", "QLoRA", "Full"])
def test_colours_are_learned_on_a_gpu(vision_bench_of: Callable[..., Bench], method: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    rate = 1e-3 if method == "Full" else 5e-3
    bench = vision_bench_of(**LEARNING | {"method": method, "learning_rate": rate}).to(Step.TRAIN)
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/{'model' if method == 'Full' else 'adapter'}/1")
    model: Any = AutoModelForImageTextToText.from_pretrained(folder if method == "Full" else bench.base)
    if method != "Full":
        model = PeftModel.from_pretrained(model, folder)
    assert answers_of(model.eval(), folder) == RIGHT
    assert bench.job.metrics is not None
    if method != "QLoRA":
        assert bench.job.metrics.eval_loss == pytest.approx(held_out_from_logits(bench, model)[0], rel=1e-2)


def test_the_vision_tower_is_trained_on_a_gpu(vision_bench_of: Callable[..., Bench]) -> None:
    bench = vision_bench_of(train_vision_tower=True, max_steps=3).to(Step.TRAIN)
    trained = {name for name, weight in weights(bench, "adapter").items() if ".lora_B." in name and weight.any()}
    assert any(".vision_tower." in name for name in trained)
    assert any(".language_model." in name for name in trained)


def test_dpo_with_pictures_learns_on_a_gpu(vision_bench_of: Callable[..., Bench]) -> None:
    train, held_out = ([pair(number) for number in numbers] for numbers in (range(24), range(100, 106)))
    bench = rl_bench(vision_bench_of, DPO, train, held_out, **LEARNING).to(Step.TRAIN)
    assert bench.job.metrics is not None
    assert bench.job.metrics.preference_accuracy == 1
