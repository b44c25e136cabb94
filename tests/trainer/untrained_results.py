"""Results of a train step without training.

They are an adapter with random factors or a copy of the base model, published as the train step would.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from gemtune.jobs.status import Step
from tests.trainer.conftest import Bench
from trainer.export import tokenizer_files
from trainer.new_tokens import tokenizer
from trainer.store import manifest

RANK = 4


def write_adapter(base: Path, folder: Path, *, std: float = 0.05, new_tokens: Sequence[str] = ()) -> Path:
    """Write a LoRA adapter with random factors for every linear layer.

    PEFT's own adapters begin with zeros, with which any export would be right. Rows of new tokens are random too.
    """
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
    added = tokenizer.add(base, new_tokens, folder) if new_tokens else None
    if added is not None:
        embedding = next(name for name in weights if name.endswith(".embed_tokens.weight"))
        height, width = weights[embedding].shape
        rows = added.trained_rows(height)
        name = f"base_model.model.{embedding.removesuffix('weight')}token_adapter.trainable_tokens_delta"
        factors[name] = torch.randn(len(rows), width, generator=generator) * std
    save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "bias": "none",
        "target_modules": sorted({name.split(".")[-2] for name in weights if name.endswith("_proj.weight")}),
        "base_model_name_or_path": str(base),
        "trainable_token_indices": None if added is None else {"embed_tokens": rows},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    linked = tokenizer.with_new_tokens(base, folder, folder.with_name(f"{folder.name}_base"))
    tokenizer_files.add_tokenizer(linked, folder)
    return folder


def publish_results(bench: Bench, *, prepare: bool = True) -> Bench:
    """Prepare the job, and publish results of its method without training."""
    if prepare:
        bench.run(Step.PREPARE)
    context = bench.context(Step.TRAIN)
    place = tokenizer_files.trained_folder(context.spec.training_config.method)
    folder = context.work / place
    if place == "adapter":
        write_adapter(bench.base, folder)
    else:
        shutil.copytree(bench.base, folder)
    manifest.publish(context.buckets.export, folder, f"{context.prefix}/{place}/{context.fence.attempt}")
    context.advance.finish(context.job.job_id, context.fence)
    return bench
