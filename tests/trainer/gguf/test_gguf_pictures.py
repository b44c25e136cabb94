"""GGUF of a vision job: the language model as one file, and what sees, as it was trained, as another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file

from gemtune.jobs.status import Step
from gemtune.llama_cpp import is_built
from gemtune.settings import Settings
from tests import rows, tiny_gemma
from tests.trainer.conftest import Bench
from trainer.export.merge import merge
from trainer.export.usage import PROJECTOR

# Parts of the projector file and of the model, by both their names.
TOWER = "model.vision_tower.encoder.layers"
PARTS = {
    "v.blk.0.attn_q.weight": f"{TOWER}.0.self_attn.q_proj.weight",
    "v.blk.1.attn_v.bias": f"{TOWER}.1.self_attn.v_proj.bias",
    "v.blk.1.ffn_up.weight": f"{TOWER}.1.mlp.fc1.weight",
    "v.patch_embd.weight": "model.vision_tower.embeddings.patch_embedding.weight",
    "mm.input_projection.weight": "model.multi_modal_projector.mm_input_projection_weight",
}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    if not is_built(Settings.from_environment().llama_cpp):
        pytest.skip("llama.cpp is not built on this machine: make llama (it needs cmake and g++)")
    base = tiny_gemma.build(tmp_path / "base", "gemma3-vision", head_dim=256)
    bench = Bench(tmp_path / "home", base, max_steps=3, save_steps=100, train_vision_tower=True)
    bench.fields["modality"], bench.export = "vision", {"format": "gguf", "quantization": "f16"}
    bench.put("train", rows.picture_rows(8))
    bench.put("eval", rows.picture_rows(2, first=100))
    return bench


def test_what_was_trained_to_see_is_in_the_file_beside_the_language_model(bench: Bench, tmp_path: Path) -> None:
    job = bench.to(Step.EXPORT).job
    assert job.status == "completed"
    folder = Path(job.adapter_path or "")
    assert {"model-f16.gguf", PROJECTOR, "Modelfile", "certificate.json"} <= {path.name for path in folder.iterdir()}
    assert f"--mmproj {PROJECTOR}" in (folder / "README.md").read_text()

    adapter = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1"))
    merge(bench.base, adapter, tmp_path / "merged", "none")
    before, after = (named(load_file(each / "model.safetensors")) for each in (bench.base, tmp_path / "merged"))
    written = {tensor.name: tensor.data for tensor in GGUFReader(folder / PROJECTOR).tensors}
    changed = 0
    for theirs, ours in PARTS.items():
        trained = after[ours].float().numpy()
        np.testing.assert_allclose(written[theirs].astype(np.float32).ravel(), trained.ravel(), rtol=1e-3, atol=1e-6)
        changed += not torch.equal(before[ours], after[ours])
    assert changed >= 2


def named(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By the names that transformers has for the modules now; files may have older ones."""
    plain = {name: name.replace("vision_model.", "") for name in weights}
    return {
        plain[name] if name.startswith("model.") else f"model.{plain[name]}": weight for name, weight in weights.items()
    }
