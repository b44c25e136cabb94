"""Trainers of RL for prepared jobs, without running the train step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from gemtune.request.rl_spec import DpoConfig, GrpoConfig, KtoConfig
from gemtune.request.spec import Spec
from tests.trainer.conftest import Bench
from trainer.training.interface import Hooks

# Hooks of a run without progress reports, checkpoints or stops.
NO_HOOKS = Hooks(lambda *_: None, lambda *_: None, lambda *_: None, lambda: False)


def prepared_folder(bench: Bench) -> Path:
    """Return the folder with the token files of the first prepare attempt."""
    return Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))


def make_trainer(bench: Bench, output: Path, *, base: Path | None = None, **rl: Any) -> Any:
    """Return the trainer of a prepared job's algorithm.

    base: folder of another base model than the job's. rl: other values for fields of its rl_config.
    """
    from trainer.model.engines import huggingface
    from trainer.training import grpo
    from trainer.training.interface import Setup
    from trainer.training.picture_batches import PictureCollator
    from trainer.training.preference import dpo, kto

    spec = Spec.model_validate_json(bench.services.buckets.config.read(bench.job.spec_name))
    folder, config = prepared_folder(bench), spec.training_config
    assert config.rl_config is not None
    config = config.model_copy(update={"rl_config": config.rl_config.model_copy(update=rl)})
    base = base or Path(config.base_model_id)
    makers: Mapping[object, Callable[[Setup], Any]] = {
        DpoConfig: dpo.make,
        GrpoConfig: grpo.make,
        KtoConfig: kto.make,
    }
    trainer = makers[type(config.rl_config)](
        Setup(
            huggingface.load(base, spec),
            config,
            base,
            folder / "train.parquet",
            folder / "eval.parquet",
            output=output / "out",
            total_steps=8,
            max_length=2048,
            hooks=NO_HOOKS,
            pictures=PictureCollator.from_folders(base, folder) if spec.modality == "vision" else None,
        )
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def randomize_adapter(model: Any) -> Any:
    """Fill the adapter's B factors with random numbers, to give it an effect."""
    torch.manual_seed(3)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.05)
    return model
