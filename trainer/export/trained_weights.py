"""Trained weights: what train left to export."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from gemtune.jobs.record import Job
from gemtune.jobs.status import Step
from gemtune.methods import Method
from gemtune.ports import Buckets
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
    """Fetch the trained weights of a step's job; see `of_job`."""
    return of_job(context.buckets, context.job, context.spec.training_config.method, context.work)


def of_job(buckets: Buckets, job: Job, method: Method, work: Path) -> TrainedWeights:
    """Fetch the trained weights, and check the SHA-256 of every file.

    work: folder for copies. The returned folders are read-only. Raises IncompleteFolder, StepError.
    """
    export, steps, prefix = buckets.export, job.steps, f"jobs/{job.trained_by}"
    prepared = manifest.fetch(export, f"{prefix}/prepared/{steps[Step.PREPARE].attempt}", work / "prepared")
    place = tokenizer_files.trained_folder(method)
    trained = f"{prefix}/{place}/{steps[Step.TRAIN].attempt}"
    folder = manifest.fetch(export, trained, work / "trained", in_place=place == "model")
    recorded = f"{prefix}/{REFERENCE}/{steps[Step.TRAIN].attempt}"
    is_recorded = manifest.read_whole(export, recorded) is not None
    reference = manifest.fetch(export, recorded, work / REFERENCE) if is_recorded else None
    if place == "model":
        return TrainedWeights(folder, None, prepared, reference)
    return TrainedWeights(base_of(buckets, prepared, work), folder, prepared, reference, embedding.read(folder))


def check_base_unchanged(buckets: Buckets, trained: TrainedWeights) -> None:
    """Check that the base model was not replaced while it was read.

    Raises StepError `base_changed`.
    """
    if trained.adapter is not None:
        summary = json.loads((trained.prepared / "prepared.json").read_text())
        location.check_unchanged(buckets, summary["base_model"], trained.base, summary.get("base_digests"))


def base_of(buckets: Buckets, prepared: Path, work: Path) -> Path:
    """Return a local folder with the base model that a job was prepared with.

    prepared: the output of prepare. Raises StepError.
    """
    summary = json.loads((prepared / "prepared.json").read_text())
    return location.locate(buckets, summary["base_model"], work, summary.get("base_digests"))
