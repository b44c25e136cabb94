"""Trained weights: what train left to export."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from gemtune.jobs.status import Step
from trainer.base_model import location
from trainer.context import Context
from trainer.export import tokenizer_files
from trainer.new_tokens import embedding
from trainer.new_tokens.embedding import NewTokens
from trainer.store import manifest

# The folder of a job's reference, one per attempt of train.
REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class TrainedWeights:
    """Local folders with an adapter and its base model, or with a whole model.

    base: the base model, or the trained model for method Full. adapter: PEFT's folder, or None for method Full.
    prepared: the output of prepare. reference: what training recorded for the certificate; None if the job was trained
    by a version that recorded nothing. new_tokens: the tokens that the adapter adds to the base model, or None.
    """

    base: Path
    adapter: Path | None
    prepared: Path
    reference: Path | None = None
    new_tokens: NewTokens | None = None

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
    recorded = f"{context.training_prefix}/{REFERENCE}/{steps[Step.TRAIN].attempt}"
    is_recorded = manifest.read_whole(export, recorded) is not None
    reference = manifest.fetch(export, recorded, context.work / REFERENCE) if is_recorded else None
    if place == "model":
        return TrainedWeights(folder, None, prepared, reference)
    summary = json.loads((prepared / "prepared.json").read_text())
    base = location.locate(context.buckets, summary["base_model"], context.work, summary.get("base_digests"))
    return TrainedWeights(base, folder, prepared, reference, embedding.read(folder))
