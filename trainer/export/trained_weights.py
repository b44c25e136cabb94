"""What train left to export: an adapter and the base model it belongs to, or a whole model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from gemtune.jobs.status import Step
from trainer.base_model import location
from trainer.context import Context
from trainer.export import tokenizer_files
from trainer.store import manifest


@dataclass(frozen=True, slots=True)
class TrainedWeights:
    """base: a folder with the weights that the adapter belongs to, or those that were trained whole. adapter: a PEFT
    folder, or None after a training of all weights. prepared: what prepare left."""

    base: Path
    adapter: Path | None
    prepared: Path

    @property
    def folder(self) -> Path:
        """What was trained, as train left it."""
        return self.adapter or self.base


def locate(context: Context) -> TrainedWeights:
    """Local, read-only folders, every file checked. Raises IncompleteFolder, StepError."""
    export, steps = context.buckets.export, context.job.steps
    prepared = manifest.fetch(
        export, f"{context.origin}/prepared/{steps[Step.PREPARE].attempt}", context.work / "prepared"
    )
    place = tokenizer_files.trained_folder(context.spec.training_config.method)
    prefix = f"{context.origin}/{place}/{steps[Step.TRAIN].attempt}"
    folder = manifest.fetch(export, prefix, context.work / "trained")
    if place == "model":
        return TrainedWeights(folder, None, prepared)
    summary = json.loads((prepared / "prepared.json").read_text())
    return TrainedWeights(location.locate(context.buckets, summary["base_model"], context.work), folder, prepared)
