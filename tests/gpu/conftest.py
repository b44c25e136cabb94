from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.trainer.conftest import bench, bench_of, tiny, tiny_vision, vision_bench_of

__all__ = ["bench", "bench_of", "convert_to_bf16", "tiny", "tiny_vision", "vision_bench_of"]


def convert_to_bf16(folder: Path) -> Path:
    """Convert a tiny model to bfloat16 and make it learn quickly.

    Larger embeddings make its logits differ more.
    """
    weights = load_file(folder / "model.safetensors")
    scales = {name: 8 if name.endswith("embed_tokens.weight") else 1 for name in weights}
    stored = {name: (weight * scales[name]).to(torch.bfloat16) for name, weight in weights.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    return folder
