"""The benchmark for a GPU, dry-run on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.gpu import __main__ as bench_gpu
from bench.gpu import models
from bench.gpu.__main__ import Deadline, PartFailed
from gemtune import families
from gemtune.families.size import ModelSize
from gemtune.machines import model_size


def _size(name: str) -> ModelSize:
    size = families.size_by_name(f"google/{models.SHAPES[name].hub_name}")
    assert size is not None
    return size


@pytest.mark.parametrize("name", models.SHAPES)
def test_whole_models_have_the_published_shapes(name: str) -> None:
    size = _size(name)
    config = models.configuration(name, size, size.layers).to_dict() | {"dtype": "bfloat16"}
    built = model_size.of_folder(config, size.file_bytes)
    assert set(built.shapes) == set(size.shapes)
    assert (built.hidden, built.vocabulary, built.experts, built.per_layer_input) == (
        size.hidden,
        size.vocabulary,
        size.experts,
        size.per_layer_input,
    )


@pytest.mark.parametrize("name", models.SHAPES)
def test_layers_are_left_out_until_the_weights_fit(name: str) -> None:
    size, period = _size(name), models.SHAPES[name].period
    limit = 12 * models.GIB
    layers = models.fitting_layers(size, period, limit)
    assert 2 * models.language_parameters(size, layers) <= limit
    assert layers == size.layers or (
        layers % period == 0 and 2 * models.language_parameters(size, layers + period) > limit
    )
    assert models.fitting_layers(size, period, 200 * models.GIB) == size.layers
    with pytest.raises(ValueError, match="layers alone have"):
        models.fitting_layers(size, period, 1000)


def test_estimated_parameters_are_those_of_the_language_model() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    for name in models.SHAPES:
        size = _size(name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(models.configuration(name, size, size.layers))
        counted = sum(weight.numel() for weight in model.parameters())
        assert models.language_parameters(size, size.layers) == pytest.approx(counted, rel=0.02), name


def test_dry_run_compares_with_trl(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    options = ["--dry-run", "--models", "gemma-3-1b", "--methods", "LoRA", "--steps", "4", "--results", str(file)]
    bench_gpu.main(options)
    results = json.loads(file.read_text())["models"]["gemma-3-1b"]
    assert results["layers"] == "12 of 26"
    assert results["LoRA"]["gemtune"]["tokens_per_second"] > 0
    ratios = results["LoRA"]["ratios"]["trl"]
    assert ratios["tokens_per_second"] > 0
    assert ratios["max_loss_difference"] < 0.01


def test_without_time_every_part_says_so(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    bench_gpu.main(["--dry-run", "--minutes", "0", "--results", str(file)])
    results = json.loads(file.read_text())["models"]
    assert results == {name: {"failed": "no time was left"} for name in models.SHAPES}


def test_failing_peer_ends_its_own_part_only(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    rows = [{"input_ids": [2, 3], "labels": [2, 3]}] * 8
    with pytest.raises(PartFailed, match="KeyError: 'nobody'"):
        bench_gpu._measure("nobody", "dry", tmp_path, rows, Deadline(600))
