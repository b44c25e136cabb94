"""Provider unsloth on a GPU, by its own kernels: every method learns there, changes what it should and nothing else,
leaves the files that provider huggingface leaves, and comes near its losses. Runs where unsloth is installed beside the
trainer (the extra `unsloth`); elsewhere it is skipped."""

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

from gemtune.jobs.record import Metrics
from gemtune.jobs.status import Step
from tests import preference_rows, rows, tiny_gemma
from tests.gpu.conftest import made_bf16
from tests.trainer.conftest import Bench

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="needs the extra unsloth"),
]

# Products in 16 bits by other kernels, for some train_steps one after the other: as a part of the loss.
NEAR = 0.05
FAMILIES = ["gemma", "gemma2", "gemma3"]
METHODS = ["LoRA", "QLoRA", "Full"]
REWARD = {"type": "regex", "name": "has_e", "pattern": "e"}
GRPO = {"algorithm": "grpo", "num_generations": 4, "max_completion_length": 6, "beta": 0.01, "rewards": [REWARD]}


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny model of each family, with logits that differ enough to learn from. Heads are as wide as real ones: some
    kernels know no others."""
    return made_bf16(tiny_gemma.build(tmp_path / request.param, request.param, head_dim=256))


def train(bench: Bench) -> None:
    """The train step in a process of its own: unsloth has to be imported before everything it changes."""
    assert torch.cuda.is_available()
    object.__setattr__(bench.services.settings, "unsloth_python", Path(sys.executable))
    bench.to(Step.PREPARE)
    home = {"GEMTUNE_HOME": str(bench.services.settings.home), "GEMTUNE_UNSLOTH_PYTHON": sys.executable}
    arguments = ["train", "--job-id", bench.job_id, "--launch", "1", "--execution", "e", "--seconds", "1000"]
    ran = subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | home,
    )
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-5000:]
    assert bench.job.steps[Step.TRAIN].state == "done", (ran.stdout + ran.stderr)[-5000:]


def both(make: Callable[[str], Bench]) -> tuple[Bench, Bench]:
    """The same job by huggingface and by unsloth, trained; they left files of the same names."""
    plain, fast = make("huggingface"), make("unsloth")
    train(plain)
    train(fast)
    files = [{Path(artifact.name).name for artifact in bench.job.artifacts} for bench in (plain, fast)]
    assert files[0] == files[1]
    return plain, fast


def figures(bench: Bench) -> Metrics:
    found = bench.job.metrics
    assert found is not None
    return found


def result(bench: Bench) -> dict[str, torch.Tensor]:
    """The weights that a training left."""
    place = "model" if bench.training["method"] == "Full" else "adapter"
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/{place}/{bench.job.steps[Step.TRAIN].attempt}")
    return load_file(Path(folder) / ("model.safetensors" if place == "model" else "adapter_model.safetensors"))


def assert_near(plain: Bench, fast: Bench) -> None:
    """Losses fall, and stay near each other on the way."""
    ours, theirs = plain.curve(), fast.curve()
    assert [step for step, _ in theirs] == [step for step, _ in ours]
    assert [loss for _, loss in theirs] == pytest.approx([loss for _, loss in ours], rel=NEAR)
    assert theirs[-1][1] < theirs[0][1] - 0.3
    assert figures(fast).eval_loss == pytest.approx(figures(plain).eval_loss, rel=NEAR)
    before, after = figures(plain).baseline, figures(fast).baseline
    assert before is not None
    assert after is not None
    assert after.eval_loss == pytest.approx(before.eval_loss, rel=NEAR)


def assert_only_adapters(plain: Bench, fast: Bench) -> None:
    """The same layers were adapted, and all of them learned."""
    before, after = result(plain), result(fast)
    assert {name: weight.shape for name, weight in after.items()} == {n: w.shape for n, w in before.items()}
    assert all(".lora_A." in name or ".lora_B." in name for name in after)
    assert all(bool(weight.any()) for name, weight in after.items() if ".lora_B." in name)


@pytest.mark.parametrize("method", METHODS)
def test_text_is_learned_as_by_huggingface(tmp_path: Path, base: Path, method: str) -> None:
    training = {
        "method": method,
        "lora_dropout": 0.0,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "batch_size": 3,
        "learning_rate": 1e-3 if method == "Full" else 5e-3,
    }
    plain, fast = both(lambda provider: Bench(tmp_path / provider, base, provider=provider, **training))
    assert_near(plain, fast)
    if method != "Full":
        assert_only_adapters(plain, fast)
        return
    stored, trained = load_file(base / "model.safetensors"), result(fast)
    assert trained.keys() == stored.keys()
    assert not [name for name in stored if torch.equal(stored[name].float(), trained[name].float())]


@pytest.mark.parametrize("train_vision_tower", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_colours_are_learned_as_by_huggingface(
    seeing_bench_of: Callable[..., Bench], tmp_path: Path, method: str, train_vision_tower: bool
) -> None:
    base = made_bf16(tiny_gemma.build(tmp_path / "seeing", "gemma3-vision", head_dim=256))
    training = {
        "method": method,
        "train_vision_tower": train_vision_tower,
        "lora_dropout": 0.0,
        "max_steps": 12,
        "batch_size": 8,
        "learning_rate": 1e-3 if method == "Full" else 5e-3,
        "base_model_id": str(base),
    }
    plain, fast = both(lambda provider: seeing_bench_of(provider=provider, **training))
    assert_near(plain, fast)
    if method != "Full":
        assert_only_adapters(plain, fast)
        assert any(".vision_tower." in name for name in result(fast)) == train_vision_tower
        assert not any("projector" in name for name in result(fast))
        return
    stored, trained = load_file(base / "model.safetensors"), result(fast)
    assert trained.keys() == stored.keys()
    same = {name for name in stored if torch.equal(stored[name].float(), trained[name].float())}
    seeing = {name for name in stored if name.startswith(("vision_tower.", "multi_modal_projector."))}
    assert same == (set() if train_vision_tower else seeing)


def aligned(home: Path, base: Path, rl: dict[str, Any], content: Any, **training: Any) -> Bench:
    bench = Bench(home, base, method="RL", rl_config=rl, **training)
    bench.put("train", content(rows.train_rows(24)))
    bench.put("eval", content(rows.held_out_rows(8)))
    return bench


def test_the_margin_rises_as_by_huggingface(tmp_path: Path, base: Path) -> None:
    training = {"batch_size": 8, "max_steps": 8}
    plain, fast = both(
        lambda provider: aligned(
            tmp_path / provider, base, {"algorithm": "dpo"}, preference_rows.pairs, provider=provider, **training
        )
    )
    assert [loss for _, loss in fast.curve()] == pytest.approx([loss for _, loss in plain.curve()], abs=NEAR)
    assert figures(fast).margin == pytest.approx(figures(plain).margin, rel=0.1)
    assert (figures(fast).margin or 0) > 0.5
    assert figures(fast).preference_accuracy == 1
    assert_only_adapters(plain, fast)


def test_the_reward_rises_as_by_huggingface(tmp_path: Path, base: Path) -> None:
    """What is sampled differs by a product's rounding, so that only where it leads can be compared."""
    training = {"batch_size": 16, "learning_rate": 0.02, "max_steps": 20}
    plain, fast = both(
        lambda provider: aligned(
            tmp_path / provider, base, GRPO, preference_rows.prompts, provider=provider, **training
        )
    )
    for bench in (plain, fast):
        baseline = figures(bench).baseline
        assert baseline is not None
        assert (figures(bench).reward or 0) > (baseline.reward or 0) + 0.3
    assert_only_adapters(plain, fast)
