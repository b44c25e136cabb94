"""GGUF of a Gemma 3n, whose files have parts of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemtune.request.exports import GgufExport
from tests.trainer import untrained_results
from tests.trainer.gguf import wide_gemma3n
from tests.trainer.gguf.test_gguf import export, gguf_export
from trainer.certificate import comparison
from trainer.certificate.files import check
from trainer.certificate.files.case import Case
from trainer.certificate.held_out_rows import collect
from trainer.certificate.verdict import DEVIATION
from trainer.export.trained_weights import TrainedWeights

F16 = gguf_export("f16")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tools: Path) -> dict[str, Any]:
    """Return the case of an export, as the certificate gets it."""
    work = tmp_path_factory.mktemp("3n")
    base = wide_gemma3n.build(work / "base")
    trained = TrainedWeights(base, untrained_results.write_adapter(base, work / "adapter", std=0.05), work)
    folder = export(trained, work / "f16", "f16", tools)
    return {
        "base": str(base),
        "adapter": str(trained.adapter),
        "format": "gguf",
        "quantization": "f16",
        "folder": str(folder),
        "tools": str(tools),
        "rows": collect(trained.prepared, trained.folder).to_json(),
    }


def test_the_file_of_a_base_model_without_unused_weights_has_what_was_trained(exported: dict[str, Any]) -> None:
    """Transformers' files have no keys of layers that share those of others."""
    names = load_file(Path(exported["base"]) / "model.safetensors")
    assert not any(".layers.20.self_attn.k_proj" in name for name in names)
    assert check.problems(Case.read(exported)) == []


def test_llama_cpp_computes_what_was_trained(exported: dict[str, Any]) -> None:
    assert isinstance(F16, GgufExport)
    file = Path(exported["folder"]) / F16.file_name
    assert comparison.measure_function(exported | {"exact": str(file)})["deviation"] < DEVIATION


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("altup_projections.1.weight", "altup_proj.weight differs from the trained weights"),
        ("embed_tokens_per_layer.weight", "per_layer_token_embd.weight differs from the trained weights"),
    ],
)
def test_a_changed_part_is_noticed(tmp_path: Path, exported: dict[str, Any], name: str, problem: str) -> None:
    """Compare the file with a base model that has another weight there."""
    base = Path(exported["base"])
    weights = load_file(base / "model.safetensors")
    changed = tmp_path / "base"
    changed.mkdir()
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (changed / file.name).symlink_to(file)
    weight = weights[f"model.{name}"]
    weight[-1] = torch.roll(weight[-1], 1)
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    assert any(problem in each for each in check.problems(Case.read(exported | {"base": str(changed)})))
