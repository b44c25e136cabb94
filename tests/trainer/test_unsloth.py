"""Provider unsloth: the real one, in its own environment, trains what provider huggingface trains; or says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors.torch import load_file

from gemtune.errors import RequestRefused
from gemtune.job import Step
from tests.fakes import World
from tests.trainer.conftest import Bench
from trainer import unsloth_environment

# Both engines train the same float32 model on the same batches. What differs is the order of sums: huggingface's rows
# lie one after the other, unsloth's one below the other with padding.
TOLERANCE = 2e-4
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unsloth_python() -> Path:
    try:
        return unsloth_environment.interpreter()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the environment of unsloth cannot be made: {error}")


def execution(bench: Bench, python: Path | str, *, seconds: int = 1000, **environment: str) -> tuple[int, str]:
    """The train step as the platform starts it: by the trainer's own interpreter."""
    arguments = ["train", "--job-id", bench.job_id, "--launch", "1", "--execution", "e", "--seconds", str(seconds)]
    home = {"GEMTUNE_HOME": str(bench.services.settings.home), "GEMTUNE_UNSLOTH_PYTHON": str(python)}
    ran = subprocess.run(
        [sys.executable, "-m", "trainer", *arguments], check=False, timeout=240, capture_output=True, text=True,
        env=os.environ | home | environment,
    )  # fmt: skip
    return ran.returncode, ran.stdout + ran.stderr


def prepared(bench: Bench) -> Bench:
    """A job of provider unsloth, its rows prepared; submitted where the service has an unsloth."""
    object.__setattr__(bench.services.settings, "unsloth_python", Path(sys.executable))
    return bench.to(Step.PREPARE)


@pytest.mark.parametrize("method", ["LoRA", "Full"])
def test_both_engines_have_the_same_losses_figures_and_files(
    bench_of: Callable[..., Bench], unsloth_python: Path, method: str
) -> None:
    training = {"method": method, "lora_dropout": 0.0, "eval_strategy": "steps", "eval_steps": 4, "batch_size": 3}
    plain = bench_of(**training).to(Step.TRAIN)
    fast = prepared(bench_of(**training, provider="unsloth"))
    if method == "LoRA":  # as a relay: its time is up at the first train_step
        assert execution(fast, unsloth_python, seconds=1)[0] == 0
        assert fast.job.steps[Step.TRAIN].cause == "out_of_time"
    code, output = execution(fast, unsloth_python)
    assert code == 0, output[-3000:]
    assert fast.job.steps[Step.TRAIN].state == "done", output[-3000:]
    assert "Unsloth" in output
    assert [step for step, _ in fast.curve()] == [step for step, _ in plain.curve()]
    assert [loss for _, loss in fast.curve()] == pytest.approx([loss for _, loss in plain.curve()], abs=TOLERANCE)
    assert fast.curve()[-1][1] < fast.curve()[0][1] - 0.3
    ours, theirs = (bench.job.metrics for bench in (plain, fast))
    assert ours is not None
    assert theirs is not None
    assert theirs.eval_loss == pytest.approx(ours.eval_loss, abs=TOLERANCE)
    assert ours.baseline is not None
    assert theirs.baseline is not None
    assert theirs.baseline.eval_loss == pytest.approx(ours.baseline.eval_loss, abs=TOLERANCE)
    assert theirs.baseline.accuracy == ours.baseline.accuracy
    files = [{Path(artifact.name).name for artifact in bench.job.artifacts} for bench in (plain, fast)]
    assert files[0] == files[1]
    before, after = (weights(bench, method) for bench in (plain, fast))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=2e-3) for name in before)


def weights(bench: Bench, method: str) -> dict[str, torch.Tensor]:
    place, name = ("model", "model") if method == "Full" else ("adapter", "adapter_model")
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/{place}/{bench.job.steps[Step.TRAIN].attempt}")
    return load_file(Path(folder) / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("training", "environment", "code"),
    [
        ({}, {"UNSLOTH_DISABLE_CPU_FALLBACK": "1"}, "unsloth_unusable"),
        ({"method": "QLoRA"}, {}, "unsloth_needs_gpu"),
    ],
)
def test_a_machine_without_a_gpu_is_told_before_any_work(
    bench_of: Callable[..., Bench],
    unsloth_python: Path,
    training: dict[str, Any],
    environment: dict[str, str],
    code: str,
) -> None:
    bench = prepared(bench_of(**training, provider="unsloth"))
    assert execution(bench, unsloth_python, **environment)[0] == 1
    error = bench.job.error
    assert error is not None
    assert (error.code, error.step, "huggingface" in (error.hint or "")) == (code, Step.TRAIN, True)


def test_an_environment_without_unsloth_is_told_before_any_work(bench_of: Callable[..., Bench]) -> None:
    bench = prepared(bench_of(provider="unsloth"))
    assert execution(bench, sys.executable)[0] == 1
    assert bench.job.error is not None
    assert bench.job.error.code == "unsloth_missing"


def test_a_service_without_unsloth_refuses_it_at_once(world: World) -> None:
    with pytest.raises(RequestRefused) as caught:
        world.submit(training={"provider": "unsloth"})
    (problem,) = caught.value.problems
    assert (problem.loc, problem.code) == (("training_config", "provider"), "unsloth_missing")
    assert "make unsloth" in json.dumps(problem.hint)


def test_the_extra_can_be_resolved_since_unsloth_allows_what_the_trainer_has_pinned(unsloth_python: Path) -> None:
    asks = "import importlib.metadata as m, json; print(json.dumps(m.requires('unsloth') + m.requires('unsloth_zoo')))"
    ran = subprocess.run([unsloth_python, "-c", asks], check=True, capture_output=True, text=True)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, extras["trainer"] + extras["unsloth"])}
    asked = [
        found for found in map(Requirement, json.loads(ran.stdout)) if found.marker is None or found.marker.evaluate()
    ]
    met = {name for found in asked if (name := canonicalize_name(found.name)) in pins}
    assert {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "unsloth-zoo"} <= met
    for found in asked:
        if (pin := pins.get(canonicalize_name(found.name))) is not None:
            (only,) = pin.specifier
            assert found.specifier.contains(only.version), f"unsloth asks for {found}; pinned is {pin}"
