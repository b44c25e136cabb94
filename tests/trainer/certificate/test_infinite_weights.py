"""Infinite bounds of layers that do not clip, in a certificate's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gemtune.request.exports import MergedQuantization
from trainer.certificate.files.weights import TrainedModel, merged_problems
from trainer.export.merge import encoding_of

BOUNDS = {"layer.input_min": torch.tensor(-torch.inf), "layer.input_max": torch.tensor(torch.inf)}


@pytest.mark.parametrize("quantization", ["none", "fp16"])
def test_infinite_bounds_of_a_model_whose_weights_were_all_trained_are_equal(
    tmp_path: Path, quantization: MergedQuantization
) -> None:
    trained = {"layer.weight": torch.randn(8, 8), **BOUNDS}
    encode = encoding_of(quantization)()
    stored = {key: value for name, weight in trained.items() for key, value in encode(name, weight, True).items()}
    folders = tmp_path / "trained", tmp_path / "stored"
    for folder, weights in zip(folders, (trained, stored), strict=True):
        folder.mkdir()
        save_file(weights, folder / "model.safetensors")
    assert merged_problems(TrainedModel(folders[0], None), folders[1], quantization) == []
    for wrong in (-torch.inf, 65_000.0, torch.nan):
        changed = stored | {"layer.input_max": torch.full_like(stored["layer.input_max"], wrong)}
        save_file(changed, folders[1] / "model.safetensors")
        (problem,) = merged_problems(TrainedModel(folders[0], None), folders[1], quantization)
        assert problem.startswith("layer.input_max ")
