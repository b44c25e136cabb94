"""Checkpoints of a training, with the metrics of their evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from gemtune.errors import ObjectNotFound
from gemtune.jobs.parts.metrics import EvaluationMetrics
from gemtune.ports import Objects, ObjectStat
from gemtune.training_files.checkpoint_names import MANIFEST, CheckpointPlace, checkpoints_folder, place_in
from gemtune.training_files.loss_history import loss_history
from gemtune.untrusted import Unreadable, read_json_object

Files = Mapping[str, ObjectStat]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Complete checkpoint of a training.

    saved_at: when it was complete. bytes: size of its files. metrics: of held-out rows at its train_step; None if there
    was no evaluation. is_best: whether that is the best one of the job's checkpoints.
    """

    train_step: int
    attempt: int
    saved_at: datetime
    bytes: int
    metrics: EvaluationMetrics | None
    is_best: bool


def list_checkpoints(export: Objects, job_id: str) -> list[Checkpoint]:
    """Return the complete checkpoints of a job, newest first.

    Several attempts may have written one of the same train_step: the newest of them counts.
    """
    files: dict[CheckpointPlace, dict[str, ObjectStat]] = {}
    for stat in export.list(checkpoints_folder(f"jobs/{job_id}")):
        if (place := place_in(stat.name)) is not None:
            files.setdefault(place, {})[stat.name.removeprefix(f"{place.prefix}/")] = stat
    newest: dict[int, CheckpointPlace] = {}
    for place in sorted(files, reverse=True):
        if place.train_step not in newest and _is_complete(export, place, files[place]):
            newest[place.train_step] = place
    if not newest:
        return []
    evaluations = _evaluations(export, job_id)
    best = _best(evaluations, newest)
    return [
        Checkpoint(
            train_step=train_step,
            attempt=place.attempt,
            saved_at=files[place][MANIFEST].updated_at,
            bytes=sum(stat.bytes for stat in files[place].values()),
            metrics=evaluations.get(train_step),
            is_best=train_step == best,
        )
        for train_step, place in newest.items()
    ]


def _is_complete(export: Objects, place: CheckpointPlace, files: Files) -> bool:
    """Return whether all files that the manifest lists are there."""
    if MANIFEST not in files:
        return False
    try:
        listed = read_json_object(export.read(f"{place.prefix}/{MANIFEST}"))["files"]
        return all(files[entry["name"]].bytes == entry["bytes"] for entry in listed)
    except (ObjectNotFound, Unreadable, KeyError, TypeError):  # being deleted, or damaged
        return False


def _evaluations(export: Objects, job_id: str) -> dict[int, EvaluationMetrics]:
    """Return the metrics of evaluations by their train_steps."""
    evaluations = {}
    for entry in loss_history(export, job_id, after=None):
        if "loss" not in entry and (metrics := _metrics(entry)) is not None:
            evaluations[entry["train_step"]] = metrics
    return evaluations


def _metrics(entry: Mapping[str, Any]) -> EvaluationMetrics | None:
    """Return the metrics of an entry of the loss history.

    None if they are not what the trainer writes.
    """
    prefix = "rewards/"
    rewards = {name.removeprefix(prefix): value for name, value in entry.items() if name.startswith(prefix)}
    single = {name: entry.get(name) for name in EvaluationMetrics.model_fields if name != "rewards"}
    try:
        return EvaluationMetrics.model_validate(single | {"rewards": rewards or None})
    except ValidationError:
        return None


def _best(evaluations: Mapping[int, EvaluationMetrics], train_steps: Iterable[int]) -> int | None:
    """Return the train_step of the best evaluation.

    That is the one with the highest reward, or else the lowest eval_loss; of equal ones the first, as in the training.
    Only train_steps that have a checkpoint count; None if none of them was evaluated.
    """
    scores = {train_step: _score(evaluations.get(train_step)) for train_step in sorted(train_steps)}
    numbers = {train_step: score for train_step, score in scores.items() if score is not None}
    return max(numbers, key=numbers.__getitem__, default=None)


def _score(metrics: EvaluationMetrics | None) -> float | None:
    """Return a number that is higher for a better evaluation, or None."""
    if metrics is None or (metrics.reward is None and metrics.eval_loss is None):
        return None
    score = metrics.reward if metrics.reward is not None else -(metrics.eval_loss or 0.0)
    return None if math.isnan(score) else score
