"""GGUF of a vision job: the language model and the projector are two files.

The projector file contains the trained vision tower.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from safetensors.torch import load_file

from gemtune.jobs.status import Step
from tests import rows, tiny_gemma
from tests.trainer.certificate import sabotage
from tests.trainer.conftest import Bench
from tests.trainer.training.media_jobs import BenchOf
from tests.trainer.training.test_vision_gemma4 import LEARNING, WITH_TOWER, bench_for, folders  # noqa: F401
from trainer.base_model import vision_parts
from trainer.certificate.files import projector_weights, weights
from trainer.export.commands.in_llama_cpp import PROJECTOR
from trainer.export.merge import merge

# Names in the projector file -> names in the model.
TOWER = "model.vision_tower.encoder.layers"
PARTS = {
    "v.blk.0.attn_q.weight": f"{TOWER}.0.self_attn.q_proj.weight",
    "v.blk.1.attn_v.bias": f"{TOWER}.1.self_attn.v_proj.bias",
    "v.blk.1.ffn_up.weight": f"{TOWER}.1.mlp.fc1.weight",
    "v.patch_embd.weight": "model.vision_tower.embeddings.patch_embedding.weight",
    "mm.input_projection.weight": "model.multi_modal_projector.mm_input_projection_weight",
}

# The same for Gemma 4, by the ends of the model's names.
GEMMA_4_PARTS = {
    "v.blk.0.attn_q.weight": "vision_tower.encoder.layers.0.self_attn.q_proj.linear.weight",
    "v.blk.1.ffn_up.weight": "vision_tower.encoder.layers.1.mlp.up_proj.linear.weight",
    "v.position_embd.weight": "vision_tower.patch_embedder.position_embedding_table",
    "mm.input_projection.weight": "embed_vision.embedding_projection.weight",
}


@pytest.fixture
def bench(tools: Path, tmp_path: Path) -> Bench:
    base = tiny_gemma.build(tmp_path / "base", "gemma3-vision", head_dim=256)
    bench = Bench(tmp_path / "home", base, max_steps=3, save_steps=100, train_vision_tower=True)
    bench.fields["modality"], bench.export = "vision", {"format": "gguf", "quantization": "f16"}
    bench.put("train", rows.picture_rows(8))
    bench.put("eval", rows.picture_rows(2, first=100))
    return bench


def test_the_projector_file_contains_the_trained_vision_tower(bench: Bench, tmp_path: Path) -> None:
    job = bench.to(Step.EXPORT).job
    assert job.status == "completed"
    folder = Path(job.adapter_path or "")
    assert {"model-f16.gguf", PROJECTOR, "Modelfile", "certificate.json"} <= {path.name for path in folder.iterdir()}
    assert f"--mmproj {PROJECTOR}" in (folder / "README.md").read_text()
    certificate = bench.job.certificate
    assert certificate is not None
    assert (certificate.source, certificate.media_rows) == ("gemtune's own questions", 0)
    assert any("held-out rows with pictures or audio were not compared" in each for each in certificate.differences)

    adapter = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1"))
    merge(bench.base, adapter, tmp_path / "merged", "none")
    before, after = (
        with_current_names(load_file(model_folder / "model.safetensors"))
        for model_folder in (bench.base, tmp_path / "merged")
    )
    written = {tensor.name: tensor.data for tensor in GGUFReader(folder / PROJECTOR).tensors}
    changed = 0
    for theirs, ours in PARTS.items():
        trained = after[ours].float().numpy()
        np.testing.assert_allclose(written[theirs].astype(np.float32).ravel(), trained.ravel(), rtol=1e-3, atol=1e-6)
        changed += not torch.equal(before[ours], after[ours])
    assert changed >= 2
    untrained = weights.TrainedModel(bench.base, None)
    assert projector_weights.problems(weights.TrainedModel(bench.base, adapter), bench.base, folder / PROJECTOR) == []
    assert len(projector_weights.problems(untrained, bench.base, folder / PROJECTOR)) >= 2
    with_scale = write_with_layer_scale(folder / PROJECTOR, tmp_path / PROJECTOR)
    (problem,) = projector_weights.problems(weights.TrainedModel(bench.base, adapter), bench.base, with_scale)
    assert problem == f"{PROJECTOR} has v.blk.0.ls1.weight, which the model does not"


def write_with_layer_scale(projector: Path, path: Path) -> Path:
    """Write a projector file's tensors, and one that scales a layer."""
    writer = GGUFWriter(path, "clip")
    for tensor in GGUFReader(projector).tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.add_tensor("v.blk.0.ls1.weight", np.full(64, 2.0, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def with_current_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights by the names that transformers uses now.

    Files may have older names.
    """
    plain = {name: name.replace("vision_model.", "") for name in weights}
    return {
        plain[name] if name.startswith("model.") else f"model.{plain[name]}": weight for name, weight in weights.items()
    }


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("shape", WITH_TOWER)
def test_the_projector_file_of_gemma_4_contains_the_base_models_vision_tower(
    shape: str,
    bench_for: BenchOf,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The tower is not trained, so every weight equals that of the base model."""
    bench = bench_for(shape, **LEARNING | {"max_steps": 4})
    # The rounding of some processors changes too many first choices of the tiny mixture.
    bench.export = {"format": "gguf", "quantization": "f16", "accept_loss": True}
    job = bench.to(Step.EXPORT).job
    assert job.status == "completed"
    folder = Path(job.adapter_path or "")
    assert f"--mmproj {PROJECTOR}" in (folder / "README.md").read_text()
    tensors = load_file(bench.base / "model.safetensors")
    written = {tensor.name: tensor.data for tensor in GGUFReader(folder / PROJECTOR).tensors}
    for theirs, ours in GEMMA_4_PARTS.items():
        (name,) = [name for name in tensors if name.endswith(ours)]
        expected = tensors[name].float().numpy()
        np.testing.assert_allclose(
            written[theirs].astype(np.float32).ravel(), expected.ravel(), rtol=2**-8, atol=1e-6
        )  # bf16
    named = [name for name in tensors if set(name.split(".")) & set(vision_parts.NAMES)]
    wrong = projector_weights.problems(Spoiled(bench.base, None), bench.base, folder / PROJECTOR)
    assert wrong[-1] == f"and {len(named) - len(wrong) + 1} more tensors", wrong
    reordered = Path(shutil.copytree(folder, tmp_path / "reordered"))
    sabotage.gguf_tensor(PROJECTOR, "v.patch_embd.weight", lambda values: values[:, ::-1])(reordered)
    trained = weights.TrainedModel(
        bench.base, Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1"))
    )
    assert projector_weights.problems(trained, bench.base, folder / PROJECTOR) == []
    (problem,) = projector_weights.problems(trained, bench.base, reordered / PROJECTOR)
    assert problem.startswith(f"v.patch_embd.weight of {PROJECTOR} differs")


@pytest.mark.usefixtures("tools")
def test_the_projector_file_of_a_unified_model_contains_what_was_trained_in_place_of_a_tower(
    bench_for: BenchOf,  # noqa: F811
) -> None:
    bench = bench_for("gemma4-unified", **LEARNING | {"max_steps": 4}, train_vision_tower=True)
    bench.export = {"format": "gguf", "quantization": "f16"}
    job = bench.to(Step.EXPORT).job
    assert job.status == "completed"
    adapter = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1"))
    written = Path(job.adapter_path or "") / PROJECTOR
    assert projector_weights.problems(weights.TrainedModel(bench.base, adapter), bench.base, written) == []
    untrained = projector_weights.problems(weights.TrainedModel(bench.base, None), bench.base, written)
    assert len(untrained) == 2  # the products with pixels, and with their embedding


class Spoiled(weights.TrainedModel):
    """The base model with weights that are all at least 2% larger."""

    def weight(self, name: str) -> weights.Weight:
        weight = super().weight(name)
        spoiled = torch.where(weight.value.isfinite(), weight.value * 1.02 + 0.02, 1.0)  # bounds may be infinite
        return replace(weight, value=spoiled)
