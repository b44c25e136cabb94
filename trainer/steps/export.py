"""Exports what was trained, in the format that was asked for, and proves that it behaves as trained. A failed export
trains nothing again."""

from __future__ import annotations

import shutil
from pathlib import Path

from trainer import certificate, gguf, manifest, questions, ready_to_run, trained_weights
from trainer.chat_template import ChatTemplate, json_object
from trainer.context import Context
from trainer.model_card import model_card
from trainer.modelfile import modelfile, turns_of
from trainer.trained_weights import TrainedWeights


def run(context: Context) -> None:
    """Write `export/<attempt>/` and complete the job with its place. Raises StepError, NotWhole, Stale."""
    context.check_stop()
    trained = trained_weights.locate(context)
    folder = context.work / "exported"
    write(context, trained, folder)
    parity = certificate.issue(
        context.spec, trained, questions.collect(trained.prepared, trained.folder), folder, context.work,
        context.llama_cpp, check_stop=context.check_stop,
    )  # fmt: skip
    export, prefix = context.buckets.export, f"{context.prefix}/export/{context.mark.attempt}"
    files = manifest.describe(export, folder, prefix)
    card = model_card(context.job, context.spec, files, parity, at=context.clock.now())
    (folder / "README.md").write_text(card)
    artifacts = manifest.publish(export, folder, prefix)
    place = export.uri(prefix)
    if context.spec.export_config.destination == "hfhub":  # the bucket's copy stays, whatever the Hub says
        from trainer import hub_upload

        place = hub_upload.push(context, folder)
    context.advance.done(context.job.job_id, context.mark, adapter_path=place, artifacts=artifacts, certificate=parity)


def write(context: Context, trained: TrainedWeights, folder: Path) -> None:
    """The export itself. An adapter needs no torch; what a GGUF file is made from goes when it is written."""
    format, quantization = context.spec.export_config.format, context.spec.quantization
    if format == "adapter":
        shutil.copytree(trained.folder, folder, ignore=shutil.ignore_patterns(manifest.NAME))
        return
    from trainer.merge import merge

    if format == "merged":
        merge(trained.base, trained.adapter, folder, quantization, check_stop=context.check_stop)
        return
    folder.mkdir()
    whole = context.work / "merged"
    merge(trained.base, trained.adapter, whole, "none", check_stop=context.check_stop)
    gguf.write(whole, folder, quantization, context.llama_cpp, check_stop=context.check_stop)
    turns = turns_of(ChatTemplate(whole, json_object(whole / "tokenizer_config.json")))
    (folder / "Modelfile").write_text(modelfile(turns, ready_to_run.gguf_name(quantization)))
    shutil.rmtree(whole)
