"""Base models whose embedding has more rows than there are tokens, or fewer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny_gemma
from tests.trainer import untrained_results
from tests.trainer.gguf.test_gguf import compare_export, export, gguf_export
from trainer.base_model import folder_contents
from trainer.export.merge import with_vocabulary
from trainer.export.trained_weights import TrainedWeights
from trainer.gguf.llama_library import LlamaModel
from trainer.new_tokens import tokenizer


def add_spare_rows(base: Path, count: int) -> None:
    """Add random rows to the embedding, and to those of layers."""
    weights = load_file(base / "model.safetensors")
    for name, weight in weights.items():
        if "embed_tokens" in name:
            weights[name] = torch.cat([weight, torch.randn(count, weight.shape[1]) * weight.std()])
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    config = folder_contents.config_of(base)
    rows = folder_contents.vocab_size(config)
    assert rows is not None
    (base / "config.json").write_text(json.dumps(with_vocabulary(config, rows + count)))


def add_tokens_without_rows(base: Path, folder: Path) -> None:
    folder.mkdir()
    tokenizer.add(base, ["<picture>", "<sound>"], folder)
    for name in (tokenizer.TOKENIZER, tokenizer.CONFIG):
        shutil.copyfile(folder / name, base / name)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [("gemma4-e-text", "more"), ("gemma4-unified", "more"), ("gemma3", "fewer"), ("gemma4-e-text", "fewer")],
)
def test_a_file_has_as_many_tokens_as_rows(tmp_path: Path, tools: Path, shape: str, rows: str) -> None:
    """llama.cpp loads no other file.

    Google's text models of Gemma 3 have a token without a row, for pictures.
    """
    base = tiny_gemma.build(tmp_path / "base", shape)
    if rows == "more":
        add_spare_rows(base, 9)
    else:
        add_tokens_without_rows(base, tmp_path / "more")
    adapter = untrained_results.write_adapter(base, tmp_path / "adapter", std=0.05)
    trained = TrainedWeights(base, adapter, tmp_path)
    folder = export(trained, tmp_path / "f16", "f16", tools)
    compared = compare_export(trained, folder, "f16", tools)
    assert "faults" not in compared
    assert compared["prompts_that_differ"] == []
    assert compared["probes"]["mean_kl"] < 1e-3
    model = LlamaModel(tools, folder / gguf_export("f16").file_name)
    assert model.vocab_size == folder_contents.vocab_size(folder_contents.config_of(base))
