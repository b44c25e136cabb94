"""Trained weights: what train left to export."""

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
    """Local folders with an adapter and its base model, or with a whole model.

    base: the base model, or the trained model for method Full. adapter: PEFT's folder, or None for method Full.
    prepared: the output of prepare.
    """

    base: Path
    adapter: Path | None
    prepared: Path

    @property
    def folder(self) -> Path:
        """The folder with the trained weights."""
        return self.adapter or self.base


def locate(context: Context) -> TrainedWeights:
    """Fetch the trained weights, and check the SHA-256 of every file.

    The folders are read-only. Raises IncompleteFolder, StepError.
    """
    export, steps = context.buckets.export, context.job.steps
    prepared = manifest.fetch(
        export, f"{context.training_prefix}/prepared/{steps[Step.PREPARE].attempt}", context.work / "prepared"
    )
    place = tokenizer_files.trained_folder(context.spec.training_config.method)
    prefix = f"{context.training_prefix}/{place}/{steps[Step.TRAIN].attempt}"
    folder = manifest.fetch(export, prefix, context.work / "trained")
    if place == "model":
        return TrainedWeights(folder, None, prepared)
    summary = json.loads((prepared / "prepared.json").read_text())
    base = location.locate(context.buckets, summary["base_model"], context.work, summary.get("base_digests"))
    return TrainedWeights(base, folder, prepared)
