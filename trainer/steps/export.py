"""Exports what was trained, in the format that was asked for. A failed export trains nothing again."""

from __future__ import annotations

import shutil
from pathlib import Path

from trainer import manifest, trained_weights
from trainer.context import Context
from trainer.model_card import model_card
from trainer.trained_weights import TrainedWeights


def run(context: Context) -> None:
    """Write `export/<attempt>/` and complete the job with its place. Raises StepError, NotWhole, Stale."""
    context.check_stop()
    found = trained_weights.locate(context)
    folder = context.work / "exported"
    _write(context, found, folder)
    export, prefix = context.buckets.export, f"{context.prefix}/export/{context.mark.attempt}"
    files = manifest.describe(export, folder, prefix)
    (folder / "README.md").write_text(model_card(context.job, context.spec, files, at=context.clock.now()))
    artifacts = manifest.publish(export, folder, prefix)
    place = export.uri(prefix)
    if context.spec.export_config.destination == "hfhub":  # the bucket's copy stays, whatever the Hub says
        from trainer import hub_upload

        place = hub_upload.push(context, folder)
    context.advance.done(context.job.job_id, context.mark, adapter_path=place, artifacts=artifacts)


def _write(context: Context, found: TrainedWeights, folder: Path) -> None:
    if context.spec.export_config.format == "adapter":  # no torch here
        shutil.copytree(found.folder, folder, ignore=shutil.ignore_patterns(manifest.NAME))
        return
    from trainer.merge import merge

    merge(found.base, found.adapter, folder, context.spec.quantization, check_stop=context.check_stop)
