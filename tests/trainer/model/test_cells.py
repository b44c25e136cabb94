"""Every kind of Gemma, trained with every method.

A job has the losses and weights of a plain program of transformers, PEFT and TRL, trains nothing else, and resumes to
the bit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gemtune import families
from gemtune.families import timm
from gemtune.families.generation import Family
from gemtune.families.size import NO_TOWER, ModelSize
from gemtune.jobs.status import Step
from tests.tiny_shapes import SHAPES
from tests.trainer.conftest import Bench
from tests.trainer.model import cells
from tests.trainer.model.cells import KINDS, METHODS, OF_A_KIND, SEEING
from tests.trainer.steps.test_train import after_steps
from tests.trainer.training import media_jobs, picture_rows
from trainer.export.lora_weights import canonical_name
from trainer.steps import recording

# Share of weights that may differ by more than a tenth of the learning rate. Adam's first steps are as large for a
# gradient that is nearly zero, as most are in the first steps of GRPO, and rounding decides about its sign.
ROUNDED_AWAY = {"GRPO": 0.2}
# Largest difference of losses. That of DPO of the unified model, whose losses are about 0.7, is 6e-4 in the second
# train_step, in which Adam amplifies rounding. The others keep within 1e-4.
LOSS_DIFFERENCE = 1e-3

NEEDS_TIMM = (
    pytest.mark.timm,
    pytest.mark.skipif(not timm.is_installed(), reason="timm and torchvision are not installed: run make timm"),
)
CELLS = [
    *(pytest.param(kind, "text", method) for kind in KINDS for method in METHODS),
    *(
        pytest.param(kind, "vision", method, marks=NEEDS_TIMM if shape == "gemma3n" else ())
        for kind, shape in SEEING.items()
        for method in METHODS
    ),
]


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


def test_every_tiny_model_that_sees_is_a_kind_that_sees() -> None:
    """Each has cells of every method on rows with pictures."""
    assert set(SEEING.values()) == {name for name, shape in SHAPES.items() if shape.media_tokens}


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


@pytest.fixture(autouse=True)
def no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what exports are compared with.

    It takes a sixth of a cell's time and is tested elsewhere.
    """
    monkeypatch.setattr(recording, "record_base", lambda *_: None)
    monkeypatch.setattr(recording, "publish_reference", lambda *_: None)


@pytest.fixture(scope="module")
def model_of(base_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return a function from a kind and a modality to the folder of a model."""
    seeing = media_jobs.scaled_models(tmp_path_factory.mktemp("seeing"), picture_rows.SCALES)
    return lambda kind, modality: seeing(SEEING[kind]) if modality == "vision" else base_of(KINDS[kind])


@pytest.mark.parametrize(("kind", "modality", "method"), CELLS)
def test_a_job_trains_as_the_libraries_and_resumes_to_the_bit(
    tmp_path: Path, model_of: Callable[[str, str], Path], kind: str, modality: str, method: str
) -> None:
    base = model_of(kind, modality)
    uninterrupted, interrupted = (cells.job(tmp_path / name, base, method, modality) for name in ("whole", "parts"))
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
    metrics = uninterrupted.job.metrics
    assert metrics is not None
    if method == "DPO":
        plain.eval_dataset = cells.prepared_rows(uninterrupted, "eval")
        assert metrics.eval_loss == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-2)
    if modality == "vision":
        assert not [name for name in expected if re.search("vision|audio|projector", name)]
        if method not in ("DPO", "GRPO"):
            model, shown = loaded(uninterrupted, method), cells.HELD_OUT
            loss, _, _ = media_jobs.reference_metrics(uninterrupted, model, picture_rows.row_inputs, shown)
            assert metrics.eval_loss == pytest.approx(loss, rel=1e-4)


def loaded(bench: Bench, method: str) -> Any:
    """Return what a job trained, in plain transformers and PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    folder = folder_of(bench, method)
    if method == "Full":
        return AutoModelForImageTextToText.from_pretrained(folder)
    return PeftModel.from_pretrained(cells.plain_model(bench.base, method, "vision"), str(folder)).eval()


@pytest.mark.parametrize("kind", [pytest.param(k, marks=NEEDS_TIMM if k == "3n" else ()) for k in SEEING])
def test_the_model_of_a_cell_with_pictures_tells_them_apart(model_of: Callable[[str, str], Path], kind: str) -> None:
    """Cells would not notice exchanged pictures otherwise."""
    base = model_of(kind, "vision")
    model = cells.plain_model(base, "LoRA", "vision").eval()
    conversation = [{"role": "user", "content": [{"type": "image", "image": picture_rows.picture(0)}]}]
    ids = picture_rows.processor_of(base).apply_chat_template(conversation, tokenize=True, return_tensors="pt")
    with torch.no_grad():
        one, other = (model(**picture_rows.model_inputs(base, ids, [number])).logits[0, -1] for number in (0, 3))
    assert float((one - other).abs().max()) > 100 * LOSS_DIFFERENCE
