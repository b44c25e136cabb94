"""What train leaves, without training: an adapter with random factors, or a whole model, published as train would."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from gemtune.jobs.status import Step
from tests.trainer.conftest import Bench
from trainer.export import tokenizer_files
from trainer.store import manifest

RANK = 4


def adapter(base: Path, folder: Path, *, std: float = 0.05) -> Path:
    """A PEFT folder on every linear layer; PEFT's own begin with zeros, which any export would get right."""
    generator = torch.Generator().manual_seed(1)
    weights = load_file(base / "model.safetensors")
    factors = {}
    for name, weight in weights.items():
        if name.endswith("_proj.weight"):
            module = f"base_model.model.{name.removesuffix('.weight')}"
            out, width = weight.shape
            factors[f"{module}.lora_A.weight"] = torch.randn(RANK, width, generator=generator) * std
            factors[f"{module}.lora_B.weight"] = torch.randn(out, RANK, generator=generator) * std
    folder.mkdir(parents=True)
    save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "bias": "none",
        "target_modules": sorted({name.split(".")[-2] for name in weights if name.endswith("_proj.weight")}),
        "base_model_name_or_path": str(base),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tokenizer_files.add_tokenizer(base, folder)
    return folder


def leave(bench: Bench, *, prepare: bool = True) -> Bench:
    """Prepare for real, and leave what a training of the job's method would."""
    if prepare:
        bench.run(Step.PREPARE)
    context = bench.context(Step.TRAIN)
    place = tokenizer_files.trained_folder(context.spec.training_config.method)
    folder = context.work / place
    if place == "adapter":
        adapter(bench.base, folder)
    else:
        shutil.copytree(bench.base, folder)
    manifest.publish(context.buckets.export, folder, f"{context.prefix}/{place}/{context.fence.attempt}")
    context.advance.finish(context.job.job_id, context.fence)
    return bench
