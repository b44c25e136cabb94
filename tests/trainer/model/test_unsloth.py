"""Provider unsloth, in its own environment.

It trains what provider huggingface trains, or fails with the reason.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors.torch import load_file, save_file

from gemtune.errors import RequestRefused
from gemtune.jobs.status import Step
from gemtune.settings import Settings
from gemtune.training_files.loss_history import loss_history
from tests import preference_rows, rows, tiny_gemma
from tests.fakes import World
from tests.forking_python import ForkingPython
from tests.trainer.conftest import Bench
from trainer import unsloth_environment
from trainer.export import versions
from trainer.export.tokenizer_files import trained_folder
from trainer.model.engines import unsloth as engine

# Both engines train the same float32 model on the same batches. Only the order of sums differs: rows are packed for
# huggingface and padded for unsloth.
TOLERANCE = 2e-4
ROOT = Path(__file__).parents[3]
CLOCK_FIELDS = {"at", "tokens_per_second"}


@pytest.fixture(scope="module")
def unsloth_python() -> Path:
    try:
        return unsloth_environment.interpreter()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the environment of unsloth cannot be built: {error}")


@pytest.fixture(scope="module")
def forking_unsloth(unsloth_python: Path) -> Iterator[ForkingPython]:
    """Yield unsloth's Python, which has imported unsloth.

    That is what a train step does first.
    """
    compiled = {"UNSLOTH_COMPILE_LOCATION": str(engine.COMPILED_FOLDER), "UNSLOTH_DISABLE_STATISTICS": "1"}
    environment = os.environ | compiled | {"HF_HUB_OFFLINE": "1", "GEMTUNE_UNSLOTH_PYTHON": str(unsloth_python)}
    forking = ForkingPython(["unsloth"], environment, python=unsloth_python)
    yield forking
    forking.stop()


def run_train_step(
    bench: Bench, python: Path | str | ForkingPython, *, seconds: int = 1000, **environment: str
) -> tuple[int, str]:
    """Run the train step as the platform does, or by forking.

    Returns its exit code and output.
    """
    arguments = ["train", "--job-id", bench.job_id, "--launch", "1", "--execution", "e", "--seconds", str(seconds)]
    home = bench.services.settings.home
    if isinstance(python, ForkingPython):
        variables = python.environment | {"GEMTUNE_HOME": str(home)} | environment
        return python.run(["-m", "trainer", *arguments], variables, home / "output.log")
    variables = os.environ | {"GEMTUNE_HOME": str(home), "GEMTUNE_UNSLOTH_PYTHON": str(python)} | environment
    completed = subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        check=False,
        timeout=600,
        capture_output=True,
        text=True,
        env=variables,
    )
    return completed.returncode, completed.stdout + completed.stderr


def prepare(bench: Bench) -> Bench:
    """Submit and prepare a job of provider unsloth.

    The settings name an interpreter for unsloth, so that the service accepts the job.
    """
    object.__setattr__(bench.services.settings, "unsloth_python", Path(sys.executable))
    return bench.to(Step.PREPARE)


@pytest.mark.parametrize("method", ["LoRA", "Full"])
def test_both_engines_have_the_same_losses_metrics_and_files(
    bench_of: Callable[..., Bench], unsloth_python: Path, forking_unsloth: ForkingPython, method: str
) -> None:
    training = {"method": method, "lora_dropout": 0.0, "eval_strategy": "steps", "eval_steps": 4, "batch_size": 3}
    plain = bench_of(**training).to(Step.TRAIN)
    fast = prepare(bench_of(**training, provider="unsloth"))
    if method == "LoRA":  # interrupt it first: its time is up at the first train_step
        assert run_train_step(fast, forking_unsloth, seconds=0)[0] == 0
        assert fast.job.steps[Step.TRAIN].cause == "out_of_time"
    code, output = run_train_step(fast, unsloth_python if method == "Full" else forking_unsloth)
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


# Families besides Gemma 3, of which the other tests have a model.
FAMILIES = ("gemma", "gemma2", "gemma3n-text", "gemma4-e", "gemma4-dense-text", "gemma4-moe", "gemma4-unified")


@pytest.mark.parametrize(
    ("shape", "algorithm"), [*((shape, None) for shape in FAMILIES), ("gemma4-moe", "dpo"), ("gemma4-e", "dpo")]
)
def test_both_engines_train_every_family_alike(
    tmp_path: Path, forking_unsloth: ForkingPython, shape: str, algorithm: str | None
) -> None:
    """Compare losses, and each weight of the adapter: those on experts, too."""
    base = tiny_gemma.build(tmp_path / "base", shape)
    stored = load_file(base / "model.safetensors")
    # Each token of a new model is about as likely as any other, and losses would tell little.
    scaled = {name: weight * (8 if name.endswith("embed_tokens.weight") else 1) for name, weight in stored.items()}
    save_file(scaled, base / "model.safetensors", metadata={"format": "pt"})
    training: dict[str, Any] = {"batch_size": 4, "max_steps": 2, "learning_rate": 1e-2}
    rl = {"method": "RL", "rl_config": {"algorithm": algorithm}, "batch_size": 8}
    training |= {"lora_dropout": 0.0} if algorithm is None else rl
    plain, fast = (Bench(tmp_path / name, base, provider=name, **training) for name in ("huggingface", "unsloth"))
    for bench in (plain, fast):
        for split, chats in (("train", rows.train_rows(8)), ("eval", rows.held_out_rows(2))):
            bench.put(split, chats if algorithm is None else preference_rows.pairs(chats))
    plain.to(Step.TRAIN)
    code, output = run_train_step(prepare(fast), forking_unsloth)
    assert code == 0, output[-3000:]
    assert [loss for _, loss in fast.curve()] == pytest.approx([loss for _, loss in plain.curve()], abs=TOLERANCE)
    assert fast.curve()[-1][1] < fast.curve()[0][1] - 0.01
    before, after = (weights(bench, "LoRA") for bench in (plain, fast))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=2e-3) for name in before)
    assert any(".experts." in name for name in after) is (shape == "gemma4-moe")


ALIGNMENTS: dict[str, tuple[dict[str, Any], Callable[..., Any]]] = {
    "dpo": ({"algorithm": "dpo"}, preference_rows.pairs),
    "kto": ({"algorithm": "kto"}, preference_rows.labelled),
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
def test_both_engines_agree_in_reinforcement_learning(
    bench_of: Callable[..., Bench], forking_unsloth: ForkingPython, confident_tiny: Path, algorithm: str
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
    prepare(fast)
    for seconds in (1, 1000):  # interrupt it first: its time is up at the first train_step
        code, output = run_train_step(fast, forking_unsloth, seconds=seconds)
        assert code == 0, output[-3000:]
    assert fast.job.steps[Step.TRAIN].state == "done", output[-3000:]
    assert "Unsloth" in output
    ours, theirs = (history(bench) for bench in (plain, fast))
    assert [entry.keys() for entry in theirs] == [entry.keys() for entry in ours]
    for entry, other in zip(theirs, ours, strict=True):
        assert entry == pytest.approx(other, abs=TOLERANCE), (entry, other)
    metric = "reward" if algorithm == "grpo" else "margin"
    metrics = fast.job.metrics
    assert metrics is not None
    assert metrics.baseline is not None
    # GRPO answers only two more of eight prompts right: learning slowly keeps the engines' rounding from diverging.
    gain = 0.2 if algorithm == "grpo" else 0.3
    assert getattr(metrics, metric) > getattr(metrics.baseline, metric) + gain
    files = [{Path(artifact.name).name for artifact in bench.job.artifacts} for bench in (plain, fast)]
    assert files[0] == files[1]
    before, after = (weights(bench, "RL") for bench in (plain, fast))
    assert before.keys() == after.keys()
    assert all(".lora_" in name for name in after)
    assert all(torch.allclose(before[name], after[name], atol=2e-3) for name in before)


def history(bench: Bench) -> list[dict[str, Any]]:
    """Return the logged metrics without clock times and speed."""
    logged = loss_history(bench.services.buckets.export, bench.job_id, after=0)
    return [{name: value for name, value in entry.items() if name not in CLOCK_FIELDS} for entry in logged]


def weights(bench: Bench, method: str) -> dict[str, torch.Tensor]:
    name = "model" if method == "Full" else "adapter_model"
    return load_file(result_folder(bench, method) / f"{name}.safetensors")


def result_folder(bench: Bench, method: str) -> Path:
    place = f"jobs/{bench.job_id}/{trained_folder(method)}/{bench.job.steps[Step.TRAIN].attempt}"
    return Path(bench.services.buckets.export.uri(place))


def versions_of(bench: Bench, method: str) -> dict[str, str]:
    """Return the package versions that the model card will list."""
    return dict(versions.read(result_folder(bench, method)))


def own_versions() -> dict[str, str]:
    """Return the pins of unsloth's packages that a model card lists."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", unsloth_environment.PINS.read_text(), re.MULTILINE))
    names = {canonicalize_name(name): name for name in versions.PACKAGES}
    return {names[name]: version for name, version in pins.items() if name in names}


def test_a_missing_gpu_is_reported_before_any_work(bench_of: Callable[..., Bench], unsloth_python: Path) -> None:
    bench = prepare(bench_of(provider="unsloth"))
    assert refusal(bench, unsloth_python, UNSLOTH_DISABLE_CPU_FALLBACK="1") == "unsloth_unusable"


@pytest.fixture
def gpu_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Submit jobs as where the machine has a GPU that torch does not find."""
    monkeypatch.setattr(Settings, "may_have_gpu", True)


@pytest.mark.usefixtures("gpu_expected")
def test_quantized_training_without_a_gpu_is_refused_before_any_work(
    bench_of: Callable[..., Bench], forking_unsloth: ForkingPython
) -> None:
    assert refusal(prepare(bench_of(method="QLoRA", provider="unsloth")), forking_unsloth) == "unsloth_needs_gpu"


@pytest.mark.usefixtures("gpu_expected")
def test_vision_without_a_gpu_is_refused_before_any_work(
    vision_bench_of: Callable[..., Bench], forking_unsloth: ForkingPython
) -> None:
    assert refusal(prepare(vision_bench_of(provider="unsloth")), forking_unsloth) == "unsloth_needs_gpu"


def refusal(bench: Bench, python: Path | ForkingPython, **environment: str) -> str:
    """Return the error code of a refused train step.

    Check that the hint names the other provider.
    """
    assert run_train_step(bench, python, **environment)[0] == 1
    error = bench.job.error
    assert error is not None
    assert error.step == Step.TRAIN
    assert "huggingface" in (error.hint or "")
    return error.code


# Imitates what unsloth does to TRL on a GPU: it replaces released classes in every module that has them, and functions.
REPLACED_AS_ON_A_GPU = """
import trl, trl.trainer
from trl.models import utils as of_models
from trl.trainer import dpo_config, dpo_trainer, grpo_config, grpo_trainer, kto_config, kto_trainer, utils
for module, name in [(dpo_config, "DPOConfig"), (grpo_config, "GRPOConfig"), (kto_config, "KTOConfig"),
                     (dpo_trainer, "DPOTrainer"), (grpo_trainer, "GRPOTrainer"), (kto_trainer, "KTOTrainer")]:
    generated = type("Unsloth" + name, (getattr(module, name),), {"_calculate_rewards": None})
    for place in (trl, trl.trainer, module):
        setattr(place, name, generated)
grpo_trainer.unwrap_model_for_generation = of_models.disable_gradient_checkpointing = print
utils._ChunkedLogProbFunction = object()
"""
FORGETS = "from trainer.model.engines import unsloth as engine; engine.unload_trl()"
PREPARES = """
from types import SimpleNamespace as Of
from trainer.model.engines import unsloth as engine
engine.prepare(Of(modality="text", training_config=Of(method="RL")))
import unsloth
assert unsloth.DEVICE_TYPE == "cpu"
"""
# Fingerprints every class and function of TRL's modules by source code, and checks that ours derive from them.
FINGERPRINT = """
import hashlib, inspect, json, types
from trainer.training import grpo
from trainer.training.preference import dpo, kto
from trl.models import utils as of_models
from trl.trainer import dpo_config, dpo_trainer, grpo_config, grpo_trainer, kto_config, kto_trainer, utils
assert dpo.DpoTrainer.__bases__[-1] is dpo_trainer.DPOTrainer and dpo.DPOConfig is dpo_config.DPOConfig
assert grpo.GrpoTrainer.__bases__[-1] is grpo_trainer.GRPOTrainer and grpo.GRPOConfig is grpo_config.GRPOConfig
assert kto.KtoTrainer.__bases__[-1] is kto_trainer.KTOTrainer and kto.KTOConfig is kto_config.KTOConfig
fingerprints = {}
for module in (of_models, dpo_config, dpo_trainer, grpo_config, grpo_trainer, kto_config, kto_trainer, utils):
    for name, value in vars(module).items():
        home = getattr(value, "__module__", "") or ""
        if home.startswith("trl.") and isinstance(value, type | types.FunctionType):
            code = inspect.getsource(inspect.unwrap(value))
            key = f"{module.__name__}:{name}"
            fingerprints[key] = [home, value.__qualname__, hashlib.sha256(code.encode()).hexdigest()]
print(json.dumps(fingerprints))
"""


def fingerprints(forking: ForkingPython, changed: str, folder: Path) -> dict[str, list[str]]:
    """Return the fingerprints of TRL in a process, after some code."""
    (folder / "program.py").write_text(changed + FINGERPRINT)
    code, output = forking.run([str(folder / "program.py")], forking.environment, folder / "output.log")
    assert code == 0, output
    by_name: dict[str, list[str]] = json.loads(output.splitlines()[-1])
    return by_name


@pytest.fixture(scope="module")
def without_unsloth(unsloth_python: Path) -> Iterator[ForkingPython]:
    """Yield unsloth's Python with what TRL imports, and without unsloth."""
    forking = ForkingPython(["accelerate", "datasets", "peft", "transformers"], os.environ, python=unsloth_python)
    yield forking
    forking.stop()


@pytest.fixture(scope="module")
def released(without_unsloth: ForkingPython, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return fingerprints(without_unsloth, "", tmp_path_factory.mktemp("released"))


@pytest.mark.parametrize(
    ("python", "changed"), [("without_unsloth", REPLACED_AS_ON_A_GPU + FORGETS), ("forking_unsloth", PREPARES)]
)
def test_both_engines_use_trl_as_released(
    request: pytest.FixtureRequest, released: dict[str, list[str]], python: str, changed: str, tmp_path: Path
) -> None:
    assert len(released) > 20
    assert fingerprints(request.getfixturevalue(python), changed, tmp_path) == released


def test_an_environment_without_unsloth_is_reported_before_any_work(bench_of: Callable[..., Bench]) -> None:
    bench = prepare(bench_of(provider="unsloth"))
    assert run_train_step(bench, sys.executable)[0] == 1
    assert bench.job.error is not None
    assert bench.job.error.code == "unsloth_missing"


def test_a_service_without_unsloth_refuses_it_at_once(world: World) -> None:
    with pytest.raises(RequestRefused) as caught:
        world.submit(training={"provider": "unsloth"})
    (problem,) = caught.value.problems
    assert (problem.loc, problem.code) == (("training_config", "provider"), "unsloth_missing")
    assert "make unsloth" in json.dumps(problem.hint)


# Requirements that are only for a GPU, or for models and features of unsloth that we do not use.
NOT_INSTALLED = {
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
LIST_REQUIREMENTS = """
import importlib.metadata as metadata, json
layer = ("datasets", "fsspec", "huggingface_hub", "transformers", "trl", "torchao", "unsloth", "unsloth_zoo", "aiohttp")
required = [(name, line) for name in layer for line in metadata.requires(name) or []]
print(json.dumps([required, {dist.name: dist.version for dist in reversed([*metadata.distributions()])}]))
"""


def test_the_environment_satisfies_the_requirements_of_its_packages(unsloth_python: Path) -> None:
    """Packages of this environment take precedence over the trainer's."""
    completed = subprocess.run([unsloth_python, "-c", LIST_REQUIREMENTS], check=True, capture_output=True, text=True)
    requirements, versions = json.loads(completed.stdout)
    installed = {canonicalize_name(name): version for name, version in versions.items()}
    for package, line in requirements:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if (requirement.marker is None or requirement.marker.evaluate({"extra": ""})) and name not in NOT_INSTALLED:
            assert name in installed, f"{package} requires {line}"
            assert requirement.specifier.contains(installed[name], prereleases=True), (
                f"{package}: {line} is {installed[name]}"
            )


def test_the_pins_of_the_extra_satisfy_unsloths_requirements(unsloth_python: Path) -> None:
    program = (
        "import importlib.metadata as m, json; print(json.dumps(m.requires('unsloth') + m.requires('unsloth_zoo')))"
    )
    completed = subprocess.run([unsloth_python, "-c", program], check=True, capture_output=True, text=True)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = [line for line in extras["training"] + extras["unsloth"] if "==" in line]
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, pinned)}
    requirements = [
        requirement
        for requirement in map(Requirement, json.loads(completed.stdout))
        if requirement.marker is None or requirement.marker.evaluate()
    ]
    pinned_names = {name for requirement in requirements if (name := canonicalize_name(requirement.name)) in pins}
    assert {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "unsloth-zoo"} <= pinned_names
    for requirement in requirements:
        if (pin := pins.get(canonicalize_name(requirement.name))) is not None:
            (only,) = pin.specifier
            assert requirement.specifier.contains(only.version), f"unsloth requires {requirement}; pinned is {pin}"
