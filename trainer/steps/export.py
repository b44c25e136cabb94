"""Exports what was trained: the adapter with its model card and checksums. A failed export trains nothing again."""

from __future__ import annotations

import shutil

from gemtune.job import Step
from trainer import manifest, trained
from trainer.context import Context
from trainer.model_card import model_card


def run(context: Context) -> None:
    """Write `export/<attempt>/` and complete the job with its place. Raises NotWhole, Stale."""
    context.check_stop()
    export = context.buckets.export
    attempt_of_train = context.job.steps[Step.TRAIN].attempt
    place = f"{context.origin}/{trained.place_of(context.spec.training_config.method)}/{attempt_of_train}"
    whole = manifest.fetch(export, place, context.work / "trained")

    folder = context.work / "exported"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns(manifest.NAME))
    found = manifest.read_whole(export, place)
    files = found.artifacts if found is not None else ()
    card = model_card(context.job, context.spec, files, at=context.clock.now())
    (folder / "README.md").write_text(card)

    prefix = f"{context.prefix}/export/{context.mark.attempt}"
    artifacts = manifest.publish(export, folder, prefix)
    context.advance.done(context.job.job_id, context.mark, adapter_path=export.uri(prefix), artifacts=artifacts)
