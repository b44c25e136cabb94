"""The train step's record of what the models say, for the certificate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gemtune.request.training_config import TrainingConfig
from trainer.certificate import reference
from trainer.certificate.held_out_rows import ComparisonRows
from trainer.certificate.reference import RowStates
from trainer.context import Context
from trainer.export import trained_weights
from trainer.model.engines.interface import LoadedModel
from trainer.store import manifest

if TYPE_CHECKING:
    from trainer.steps.trained_states import MediaReader


def record_base(
    loaded: LoadedModel, rows: ComparisonRows, config: TrainingConfig, media: MediaReader | None
) -> Sequence[RowStates] | None:
    """Record what the base model says on the compared rows, for method Full.

    media: None in a text job. Returns None for an adapter, which can be disabled after the training.
    """
    if config.method != "Full":
        return None
    from trainer.steps import trained_states

    return trained_states.record_base(loaded.model, rows.rows, loaded.compute_dtype, media)


def publish_reference(
    context: Context,
    loaded: LoadedModel,
    rows: ComparisonRows,
    before: Sequence[RowStates] | None,
    media: MediaReader | None,
) -> None:
    """Store what the trained model says, for the certificate of every export.

    before: from `record_base`. media: None in a text job. It is the last thing that the model is used for: its weights
    are converted.
    """
    from trainer.steps import trained_states

    folder = context.work / trained_weights.REFERENCE
    reference.write(trained_states.record(loaded.model, rows, before, loaded.compute_dtype, media), folder)
    prefix = f"{context.prefix}/{trained_weights.REFERENCE}/{context.fence.attempt}"
    manifest.publish(context.buckets.export, folder, prefix)
