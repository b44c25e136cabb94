"""The base model of a training that goes on from another job's weights.

It is the model that those weights were trained with, in the same revision.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gemtune.errors import ObjectNotFound, StepError
from gemtune.jobs.record import BaseWeights
from gemtune.ports import Buckets
from gemtune.request import base_model
from trainer.base_model import hub_download, identity
from trainer.store import manifest


def provide(
    weights: BaseWeights,
    buckets: Buckets,
    work: Path,
    *,
    token: Callable[[], str | None],
    check_stop: Callable[[], None],
) -> dict[str, str]:
    """Make the base model available to the train step; return where it is.

    It is the model that the other job trained, or for an adapter the one that it was trained on. A copy of a Hub model
    that was deleted since is made again, of the same revision. Returns what `location.provide` returns. Raises
    StepError `base_job_gone`.
    """
    provided: dict[str, str] = _summary(weights, buckets)["base_model"]
    export = buckets.export
    if not weights.is_adapter:
        return provided | {"kind": "bucket", "place": f"{export.bucket}/{weights.folder}"}
    prefix = provided["place"].removeprefix(f"{export.bucket}/")
    model = base_model.parse(provided["id"])
    if model is not None and model.kind == "hub" and prefix.startswith(f"{base_model.copies_folder(model.place)}/"):
        revision = prefix.rpartition("/")[2]
        if manifest.read_whole(export, prefix) is None:
            hub_download.copy_once(model.place, export, work, token=token, check_stop=check_stop, revision=revision)
    return provided


def base_dtype(weights: BaseWeights, buckets: Buckets) -> str | None:
    """Return the type in which the original base model was stored.

    None if the other job's version did not record it.
    """
    dtype: str | None = _summary(weights, buckets).get("base_dtype")
    return dtype


def check_digests(weights: BaseWeights, buckets: Buckets, digests: identity.Digests) -> None:
    """Check that an adapter's base model is the one it was trained with.

    digests: of the files as they are now. Raises StepError `base_changed`. A job of an older version recorded none.
    """
    recorded = _summary(weights, buckets).get("base_digests")
    differences = identity.changes(recorded, digests) if weights.is_adapter and recorded is not None else []
    if differences:
        message = f"the base model is not the one that the adapter was trained with: {'; '.join(differences)}"
        hint = "put the files of that time back, or train from the base model"
        raise StepError("base_changed", message[:600], hint=hint)


def fetch_adapter(weights: BaseWeights | None, buckets: Buckets, work: Path) -> Path | None:
    """Return a local folder with the adapter to train on, checked.

    None if training does not start from an adapter. Raises StepError `base_job_gone`.
    """
    if weights is None or not weights.is_adapter:
        return None
    try:
        return manifest.fetch(buckets.export, weights.folder, work / "base_job")
    except manifest.IncompleteFolder as error:
        raise _gone(error.message) from error


def _summary(weights: BaseWeights, buckets: Buckets) -> Mapping[str, Any]:
    """Return prepared.json of the other job."""
    try:
        summary: Mapping[str, Any] = json.loads(buckets.export.read(f"{weights.prepared}/prepared.json"))
    except ObjectNotFound as error:
        raise _gone(error.message) from error
    return summary


def _gone(message: str) -> StepError:
    hint = "the files of the job to train on from were removed by hand: train from a base model"
    return StepError("base_job_gone", message, hint=hint)
