"""Provider unsloth: the real one, in its own environment, trains what provider huggingface trains; or says why not."""

from __future__ import annotations

import json
import os
import re
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
from gemtune.handlers.loss_history import loss_history
from gemtune.jobs.status import Step
from tests import preference_rows, rows
from tests.fakes import World
from tests.trainer.conftest import Bench
from trainer import unsloth_environment
from trainer.export import versions
from trainer.export.tokenizer_files import trained_folder

# Both engines train the same float32 model on the same batches. What differs is the order of sums: huggingface's rows
# lie one after the other, unsloth's one below the other with padding.
TOLERANCE = 2e-4
ROOT = Path(__file__).parents[3]
TIMES = {"at", "tokens_per_second"}


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
        [sys.executable, "-m", "trainer", *arguments],
        check=False,
        timeout=600,
        capture_output=True,
        text=True,
        env=os.environ | home | environment,
    )
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
    assert versions_of(fast, method) == versions_of(plain, method) | own_versions()
    before, after = (weights(bench, method) for bench in (plain, fast))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=2e-3) for name in before)


ALIGNMENTS: dict[str, tuple[dict[str, Any], Callable[..., Any]]] = {
    "dpo": ({"algorithm": "dpo"}, preference_rows.pairs),
    "grpo": (
        {
            "algorithm": "grpo",
            "num_generations": 4,
            "max_completion_length": 6,
            "beta": 0.05,
            "rewards": [{"type": "regex", "name": "has_e", "pattern": "e"}],
        },
        preference_rows.prompts,
    ),
}


@pytest.mark.parametrize("algorithm", ALIGNMENTS)
def test_both_engines_align_a_model_alike(
    bench_of: Callable[..., Bench], unsloth_python: Path, confident_tiny: Path, algorithm: str
) -> None:
    rl, content = ALIGNMENTS[algorithm]
    training: dict[str, Any] = {
        "method": "RL",
        "rl_config": rl,
        "base_model_id": str(confident_tiny),
        "batch_size": 16,
        "max_steps": 10,
        "eval_strategy": "steps",
        "eval_steps": 5,
    }
    plain, fast = bench_of(**training), bench_of(**training, provider="unsloth")
    for bench in (plain, fast):
        bench.put("train", content(rows.train_rows(24)))
        bench.put("eval", content(rows.held_out_rows(8)))
    plain.to(Step.TRAIN)
    prepared(fast)
    for seconds in (1, 1000):  # as a relay: its time is up at the first train_step
        code, output = execution(fast, unsloth_python, seconds=seconds)
        assert code == 0, output[-3000:]
    assert fast.job.steps[Step.TRAIN].state == "done", output[-3000:]
    assert "Unsloth" in output
    ours, theirs = (history(bench) for bench in (plain, fast))
    assert [entry.keys() for entry in theirs] == [entry.keys() for entry in ours]
    for entry, other in zip(theirs, ours, strict=True):
        assert entry == pytest.approx(other, abs=TOLERANCE), (entry, other)
    figure = "margin" if algorithm == "dpo" else "reward"
    metrics = fast.job.metrics
    assert metrics is not None
    assert metrics.baseline is not None
    # Of eight prompts GRPO comes to answer two more: it learns slowly where two engines' rounding does not part them.
    gain = 0.3 if algorithm == "dpo" else 0.2
    assert getattr(metrics, figure) > getattr(metrics.baseline, figure) + gain
    files = [{Path(artifact.name).name for artifact in bench.job.artifacts} for bench in (plain, fast)]
    assert files[0] == files[1]
    before, after = (weights(bench, "RL") for bench in (plain, fast))
    assert before.keys() == after.keys()
    assert all(".lora_" in name for name in after)
    assert all(torch.allclose(before[name], after[name], atol=2e-3) for name in before)


def history(bench: Bench) -> list[dict[str, Any]]:
    """What was logged, without what a clock says."""
    logged = loss_history(bench.services.buckets.export, bench.job_id, after=0)
    return [{name: value for name, value in entry.items() if name not in TIMES} for entry in logged]


def weights(bench: Bench, method: str) -> dict[str, torch.Tensor]:
    name = "model" if method == "Full" else "adapter_model"
    return load_file(trained(bench, method) / f"{name}.safetensors")


def trained(bench: Bench, method: str) -> Path:
    place = f"jobs/{bench.job_id}/{trained_folder(method)}/{bench.job.steps[Step.TRAIN].attempt}"
    return Path(bench.services.buckets.export.uri(place))


def versions_of(bench: Bench, method: str) -> dict[str, str]:
    """What the model card will say of how it was trained."""
    return dict(versions.read(trained(bench, method)))


def own_versions() -> dict[str, str]:
    """What the pins of unsloth's environment say of the packages that a model card names."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", unsloth_environment.PINS.read_text(), re.MULTILINE))
    names = {canonicalize_name(name): name for name in versions.PACKAGES}
    return {names[name]: version for name, version in pins.items() if name in names}


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
    assert refusal(bench, unsloth_python, **environment) == code


def test_pictures_without_a_gpu_are_told_before_any_work(
    vision_bench_of: Callable[..., Bench], unsloth_python: Path
) -> None:
    assert refusal(prepared(vision_bench_of(provider="unsloth")), unsloth_python) == "unsloth_needs_gpu"


def refusal(bench: Bench, python: Path, **environment: str) -> str:
    """The code of what the train step ended with, which names the other provider as a way out."""
    assert execution(bench, python, **environment)[0] == 1
    error = bench.job.error
    assert error is not None
    assert error.step == Step.TRAIN
    assert "huggingface" in (error.hint or "")
    return error.code


# What unsloth leaves of TRL on a GPU, in short: classes that are no more the released ones, under their names in every
# module that has them, and functions that do something else.
REPLACED_AS_ON_A_GPU = """
import trl, trl.trainer
from trl.models import utils as of_models
from trl.trainer import dpo_config, dpo_trainer, grpo_config, grpo_trainer, utils
for module, name in [(dpo_config, "DPOConfig"), (grpo_config, "GRPOConfig"),
                     (dpo_trainer, "DPOTrainer"), (grpo_trainer, "GRPOTrainer")]:
    generated = type("Unsloth" + name, (getattr(module, name),), {"_calculate_rewards": None})
    for place in (trl, trl.trainer, module):
        setattr(place, name, generated)
grpo_trainer.unwrap_model_for_generation = of_models.disable_gradient_checkpointing = print
utils._ChunkedLogProbFunction = object()
"""
FORGETS = "from trainer.model.engines import unsloth as engine; engine.forget_trl()"
PREPARES = """
from types import SimpleNamespace as Of
from trainer.model.engines import unsloth as engine
engine.prepare(Of(modality="text", training_config=Of(method="RL")))
import unsloth
assert unsloth.DEVICE_TYPE == "cpu"
"""
# Every class and function that TRL's own modules define, by what its code is; and whether ours are made of them.
FINGERPRINT = """
import hashlib, inspect, json, types
from trainer.training import dpo, grpo
from trl.models import utils as of_models
from trl.trainer import dpo_config, dpo_trainer, grpo_config, grpo_trainer, utils
assert dpo.DpoTrainer.__mro__[1] is dpo_trainer.DPOTrainer and dpo.DPOConfig is dpo_config.DPOConfig
assert grpo.GrpoTrainer.__mro__[1] is grpo_trainer.GRPOTrainer and grpo.GRPOConfig is grpo_config.GRPOConfig
found = {}
for module in (of_models, dpo_config, dpo_trainer, grpo_config, grpo_trainer, utils):
    for name, value in vars(module).items():
        home = getattr(value, "__module__", "") or ""
        if home.startswith("trl.") and isinstance(value, type | types.FunctionType):
            code = inspect.getsource(inspect.unwrap(value))
            found[f"{module.__name__}:{name}"] = [home, value.__qualname__, hashlib.sha256(code.encode()).hexdigest()]
print(json.dumps(found))
"""


@pytest.mark.parametrize("changed", [REPLACED_AS_ON_A_GPU + FORGETS, PREPARES])
def test_both_engines_train_by_trl_as_it_was_released(unsloth_python: Path, changed: str) -> None:
    released, found = (
        json.loads(
            subprocess.run(
                [unsloth_python, "-c", code + FINGERPRINT], check=True, capture_output=True, text=True
            ).stdout.splitlines()[-1]
        )
        for code in ("", changed)
    )
    assert len(released) > 20
    assert found == released


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


# What only a GPU uses, and what unsloth uses for models and uses that are none of ours.
NOT_THERE = {
    "cut-cross-entropy",
    "diffusers",
    "einops",
    "hf-transfer",
    "json5",
    "msgspec",
    "nest-asyncio",
    "structlog",
    "torchvision",
    "triton",
    "tyro",
    "wheel",
    "xformers",
}
WHAT_IS_ASKED = """
import importlib.metadata as metadata, json
layer = ("datasets", "fsspec", "huggingface_hub", "transformers", "trl", "torchao", "unsloth", "unsloth_zoo", "aiohttp")
asked = [(name, line) for name in layer for line in metadata.requires(name) or []]
print(json.dumps([asked, {found.name: found.version for found in reversed([*metadata.distributions()])}]))
"""


def test_its_packages_find_in_its_environment_what_they_ask_for(unsloth_python: Path) -> None:
    """Its own versions go before those of the trainer's that lie beneath."""
    ran = subprocess.run([unsloth_python, "-c", WHAT_IS_ASKED], check=True, capture_output=True, text=True)
    asked, versions = json.loads(ran.stdout)
    there = {canonicalize_name(name): version for name, version in versions.items()}
    for package, line in asked:
        needed = Requirement(line)
        name = canonicalize_name(needed.name)
        if (needed.marker is None or needed.marker.evaluate({"extra": ""})) and name not in NOT_THERE:
            assert name in there, f"{package} asks for {line}"
            assert needed.specifier.contains(there[name], prereleases=True), f"{package}: {line} is {there[name]}"


def test_the_extra_can_be_resolved_since_unsloth_allows_what_is_pinned_beside_it(unsloth_python: Path) -> None:
    asks = "import importlib.metadata as m, json; print(json.dumps(m.requires('unsloth') + m.requires('unsloth_zoo')))"
    ran = subprocess.run([unsloth_python, "-c", asks], check=True, capture_output=True, text=True)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = [line for line in extras["training"] + extras["unsloth"] if "==" in line]
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, pinned)}
    asked = [
        found for found in map(Requirement, json.loads(ran.stdout)) if found.marker is None or found.marker.evaluate()
    ]
    met = {name for found in asked if (name := canonicalize_name(found.name)) in pins}
    assert {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "unsloth-zoo"} <= met
    for found in asked:
        if (pin := pins.get(canonicalize_name(found.name))) is not None:
            (only,) = pin.specifier
            assert found.specifier.contains(only.version), f"unsloth asks for {found}; pinned is {pin}"
