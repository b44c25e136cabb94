"""Every kind of Gemma, trained with every method.

A job has the losses and weights of a plain program of transformers, PEFT and TRL, trains nothing else, and resumes to
the bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gemtune import families
from gemtune.families.generation import Family
from gemtune.families.size import NO_TOWER, ModelSize
from gemtune.jobs.status import Step
from tests.tiny_shapes import SHAPES
from tests.trainer.conftest import Bench
from tests.trainer.model import cells
from tests.trainer.model.cells import KINDS, METHODS, OF_A_KIND
from tests.trainer.steps.test_train import after_steps
from trainer.export.lora_weights import canonical_name

# Share of weights that may differ by more than a tenth of the learning rate. Adam's first steps are as large for a
# gradient that is nearly zero, as most are in the first steps of GRPO, and rounding decides about its sign.
ROUNDED_AWAY = {"GRPO": 0.2}
# Largest difference of losses. That of DPO of the unified model, whose losses are about 0.7, is 6e-4 in the second and
# third train_step, in which Adam amplifies rounding. The others keep within 1e-4.
LOSS_DIFFERENCE = 1e-3


def parts_of_size(size: ModelSize) -> tuple[bool, bool, bool]:
    """Return whether a size has experts, inputs per layer, and no encoder."""
    return size.experts is not None, bool(size.per_layer_input), size.tower is NO_TOWER


def parts_of_config(config: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    """Return the same of a config.json."""
    family_and_type = families.of_config(config)
    assert family_and_type is not None
    text = config.get("text_config", config)
    has_inputs = bool(text.get("hidden_size_per_layer_input"))
    return families.has_experts(config), has_inputs, family_and_type[1].encoder_free


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def test_every_tiny_model_is_a_kind_or_like_one() -> None:
    assert set(SHAPES) == {*KINDS.values(), *OF_A_KIND}
    assert set(OF_A_KIND.values()) <= set(KINDS)


@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_each_published_size_and_model_type_of_a_family_is_of_a_kind(
    family: Family, base_of: Callable[[str], Path]
) -> None:
    """Others need a tiny model of their own, which gets a cell of each method."""
    built = [config_of(base_of(shape)) for shape in SHAPES if shape != "gemma3n"]
    configs = [config for config in built if families.of_model_type(config["model_type"]) is family]
    assert {parts_of_size(size) for size in family.sizes.values()} <= {parts_of_config(config) for config in configs}
    types = {config["model_type"] for config in configs} | ({"gemma3n"} if "gemma3n" in family.model_types else set())
    assert types == set(family.model_types)


def weights_of(bench: Bench, method: str, attempt: int = 1) -> dict[str, torch.Tensor]:
    return load_file(folder_of(bench, method, attempt) / f"{'' if method == 'Full' else 'adapter_'}model.safetensors")


def folder_of(bench: Bench, method: str, attempt: int = 1) -> Path:
    place = "model" if method == "Full" else "adapter"
    return Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/{place}/{attempt}"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_job_trains_as_the_libraries_and_resumes_to_the_bit(
    tmp_path: Path, base_of: Callable[[str], Path], kind: str, method: str
) -> None:
    base = base_of(KINDS[kind])
    uninterrupted, interrupted = (cells.job(tmp_path / name, base, method) for name in ("whole", "parts"))
    before = load_file(base / "model.safetensors")
    uninterrupted.run(Step.TRAIN)
    interrupted.run(Step.TRAIN, should_stop=after_steps(1))
    assert interrupted.job.steps[Step.TRAIN].state == "stopped"
    interrupted.run(Step.TRAIN)
    trained, resumed = weights_of(uninterrupted, method), weights_of(interrupted, method, 2)
    assert interrupted.curve() == uninterrupted.curve()
    assert all(torch.equal(trained[name], resumed[name]) for name in trained)
    plain = cells.plain_training(uninterrupted, method, tmp_path / "plain")
    losses = [entry["loss"] for entry in plain.state.log_history if "loss" in entry]
    assert [loss for _, loss in uninterrupted.curve()] == pytest.approx(losses, rel=1e-4, abs=LOSS_DIFFERENCE)
    expected = {
        canonical_name(name.replace(".default", "")): weight.detach()
        for name, weight in plain.model.named_parameters()
        if weight.requires_grad and ".ref." not in name
    }
    trained = {canonical_name(name): weight for name, weight in trained.items()}
    if method == "Full":  # names of the Hub may differ from those of modules
        unchanged = {
            canonical_name(name) for name in before if torch.equal(before[name], trained[canonical_name(name)])
        }
        assert set(trained) - unchanged == set(expected)
    else:
        assert set(trained) == set(expected)
    differing = sum(int((trained[name] - weight).abs().gt(cells.RATE / 10).sum()) for name, weight in expected.items())
    assert differing <= ROUNDED_AWAY.get(method, 0.03) * sum(weight.numel() for weight in expected.values())
    after = load_file(base / "model.safetensors")
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
