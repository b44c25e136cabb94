"""Provider unsloth on a GPU, with its own kernels.

Every method learns, changes only what it should, leaves the same files as provider huggingface, and stays near its
losses. The tests run where unsloth is installed next to the trainer (the extra `unsloth`) and are skipped elsewhere.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gemtune.jobs.parts.metrics import Metrics
from gemtune.jobs.status import Step
from tests import preference_rows, rows, tiny_gemma
from tests.gpu.conftest import convert_to_bf16
from tests.trainer.conftest import Bench

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="needs the extra unsloth"),
]

# Tolerance of losses: other kernels in 16 bits, accumulated over several train_steps.
TOLERANCE = 0.05
FAMILIES = ["gemma", "gemma2", "gemma3", "gemma3n-text", "gemma4-e-text", "gemma4-moe-text"]
METHODS = ["LoRA", "QLoRA", "Full"]
REWARD = {"type": "regex", "name": "has_e", "pattern": "e"}
GRPO = {"algorithm": "grpo", "num_generations": 4, "max_completion_length": 6, "beta": 0.01, "rewards": [REWARD]}


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a tiny model of each family that can be trained.

    Its heads are as wide as real ones, because some kernels support no others.
    """
    return convert_to_bf16(tiny_gemma.build(tmp_path / request.param, request.param, head_dim=256))


def train(bench: Bench) -> None:
    """Run the train step in a process of its own.

    unsloth has to be imported before everything that it patches.
    """
    assert torch.cuda.is_available()
    object.__setattr__(bench.services.settings, "unsloth_python", Path(sys.executable))
    bench.to(Step.PREPARE)
    home = {"GEMTUNE_HOME": str(bench.services.settings.home), "GEMTUNE_UNSLOTH_PYTHON": sys.executable}
    arguments = ["train", "--job-id", bench.job_id, "--launch", "1", "--execution", "e", "--seconds", "1000"]
    completed = subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | home,
    )
    assert completed.returncode == 0, (completed.stdout + completed.stderr)[-5000:]
    assert bench.job.steps[Step.TRAIN].state == "done", (completed.stdout + completed.stderr)[-5000:]


def train_both(make: Callable[[str], Bench]) -> tuple[Bench, Bench]:
    """Train the same job by huggingface and by unsloth.

    Check that both leave files of the same names.
    """
    plain, fast = make("huggingface"), make("unsloth")
    train(plain)
    train(fast)
    files = [{Path(artifact.name).name for artifact in bench.job.artifacts} for bench in (plain, fast)]
    assert files[0] == files[1]
    return plain, fast


def metrics(bench: Bench) -> Metrics:
    metrics = bench.job.metrics
    assert metrics is not None
    return metrics


def trained_weights(bench: Bench) -> dict[str, torch.Tensor]:
    """Return the weights that a run saved."""
    place = "model" if bench.training["method"] == "Full" else "adapter"
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/{place}/{bench.job.steps[Step.TRAIN].attempt}")
    return load_file(Path(folder) / ("model.safetensors" if place == "model" else "adapter_model.safetensors"))


def assert_near(plain: Bench, fast: Bench) -> None:
    """Check that losses fall and that the providers' losses are close."""
    plain_curve, fast_curve = plain.curve(), fast.curve()
    assert [step for step, _ in fast_curve] == [step for step, _ in plain_curve]
    assert [loss for _, loss in fast_curve] == pytest.approx([loss for _, loss in plain_curve], rel=TOLERANCE)
    assert fast_curve[-1][1] < fast_curve[0][1] - 0.3
    assert metrics(fast).eval_loss == pytest.approx(metrics(plain).eval_loss, rel=TOLERANCE)
    before, after = metrics(plain).baseline, metrics(fast).baseline
    assert before is not None
    assert after is not None
    assert after.eval_loss == pytest.approx(before.eval_loss, rel=TOLERANCE)


def assert_only_adapters(plain: Bench, fast: Bench) -> None:
    """Check that the same layers were adapted and that all of them learned."""
    before, after = trained_weights(plain), trained_weights(fast)
    assert {name: weight.shape for name, weight in after.items()} == {n: w.shape for n, w in before.items()}
    assert all(".lora_A." in name or ".lora_B." in name for name in after)
    assert all(bool(weight.any()) for name, weight in after.items() if ".lora_B." in name)


@pytest.mark.parametrize("method", METHODS)
def test_text_training_matches_huggingface(tmp_path: Path, base: Path, method: str) -> None:
    training = {
        "method": method,
        "lora_dropout": 0.0,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "batch_size": 3,
        "learning_rate": 1e-3 if method == "Full" else 5e-3,
    }
    plain, fast = train_both(lambda provider: Bench(tmp_path / provider, base, provider=provider, **training))
    assert_near(plain, fast)
    if method != "Full":
        assert_only_adapters(plain, fast)
        return
    stored, trained = load_file(base / "model.safetensors"), trained_weights(fast)
    assert trained.keys() == stored.keys()
    assert not [name for name in stored if torch.equal(stored[name].float(), trained[name].float())]


@pytest.mark.parametrize("train_vision_tower", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_vision_training_matches_huggingface(
    vision_bench_of: Callable[..., Bench], tmp_path: Path, method: str, train_vision_tower: bool
) -> None:
    base = convert_to_bf16(tiny_gemma.build(tmp_path / "seeing", "gemma3-vision", head_dim=256))
    training = {
        "method": method,
        "train_vision_tower": train_vision_tower,
        "lora_dropout": 0.0,
        "max_steps": 12,
        "batch_size": 8,
        "learning_rate": 1e-3 if method == "Full" else 5e-3,
        "base_model_id": str(base),
    }
    plain, fast = train_both(lambda provider: vision_bench_of(provider=provider, **training))
    assert_near(plain, fast)
    if method != "Full":
        assert_only_adapters(plain, fast)
        assert any(".vision_tower." in name for name in trained_weights(fast)) == train_vision_tower
        assert not any("projector" in name for name in trained_weights(fast))
        return
    stored, trained = load_file(base / "model.safetensors"), trained_weights(fast)
    assert trained.keys() == stored.keys()
    unchanged = {name for name in stored if torch.equal(stored[name].float(), trained[name].float())}
    vision = {name for name in stored if name.startswith(("vision_tower.", "multi_modal_projector."))}
    assert unchanged == (set() if train_vision_tower else vision)


def rl_bench(home: Path, base: Path, rl: dict[str, Any], content: Any, **training: Any) -> Bench:
    bench = Bench(home, base, method="RL", rl_config=rl, **training)
    bench.put("train", content(rows.train_rows(24)))
    bench.put("eval", content(rows.held_out_rows(8)))
    return bench


def test_the_dpo_margin_matches_huggingface(tmp_path: Path, base: Path) -> None:
    training = {"batch_size": 8, "max_steps": 8}
    plain, fast = train_both(
        lambda provider: rl_bench(
            tmp_path / provider, base, {"algorithm": "dpo"}, preference_rows.pairs, provider=provider, **training
        )
    )
    assert [loss for _, loss in fast.curve()] == pytest.approx([loss for _, loss in plain.curve()], abs=TOLERANCE)
    assert metrics(fast).margin == pytest.approx(metrics(plain).margin, rel=0.1)
    assert (metrics(fast).margin or 0) > 0.5
    assert metrics(fast).preference_accuracy == 1
    assert_only_adapters(plain, fast)


def test_the_grpo_reward_rises_as_with_huggingface(tmp_path: Path, base: Path) -> None:
    """Compare only the outcome: rounding differs, so samples differ too."""
    training = {"batch_size": 16, "learning_rate": 0.02, "max_steps": 20}
    plain, fast = train_both(
        lambda provider: rl_bench(
            tmp_path / provider, base, GRPO, preference_rows.prompts, provider=provider, **training
        )
    )
    for bench in (plain, fast):
        baseline = metrics(bench).baseline
        assert baseline is not None
        assert (metrics(bench).reward or 0) > (baseline.reward or 0) + 0.3
    assert_only_adapters(plain, fast)
