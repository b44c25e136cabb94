"""The export step: writes the model in the requested format, and certifies it.

The certificate says that the export behaves as the trained model does. A failed export does not train again.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from gemtune.errors import StepError
from gemtune.jobs.parts.results import Artifact, Parity, StepResult
from gemtune.ports import Objects
from gemtune.request.exports import larger_exports
from trainer.base_model import folder_contents
from trainer.certificate import held_out_rows, parity_check
from trainer.context import Context
from trainer.conversation.chat_template import ChatTemplate, json_object
from trainer.export import lossy, trained_weights, versions
from trainer.export.model_card import model_card
from trainer.export.trained_weights import TrainedWeights
from trainer.steps import export_files
from trainer.store import manifest
from trainer.store.uploaded_files import UploadedFiles

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CertifiedExport:
    """A certified export, complete in the object store.

    folder: a local copy, which must not be changed.
    """

    prefix: str
    folder: Path
    artifacts: Sequence[Artifact]
    parity: Parity


def run(context: Context) -> None:
    """Write `export/<attempt>/` and complete the job with its location.

    Raises StepError, IncompleteFolder, Stale.
    """
    context.check_stop()
    exported = _reuse_earlier_attempt(context) or _export(context)
    place = context.buckets.export.uri(exported.prefix)
    if context.spec.export_config.destination == "hfhub":  # the bucket's copy stays, whatever the Hub says
        from trainer.hub import upload

        context.enter("uploading to the Hub")
        place = upload.push(context, exported.folder, exported.artifacts)
    result = StepResult(adapter_path=place, artifacts=tuple(exported.artifacts), certificate=exported.parity)
    context.finish(result)


def _reuse_earlier_attempt(context: Context) -> CertifiedExport | None:
    """Return the complete export of an earlier attempt, or None.

    There is one if that attempt failed later, at the upload to the Hub or at the update of the record. Deletes what
    attempts that were killed have left.
    """
    for attempt in range(context.fence.attempt - 1, 0, -1):
        context.buckets.export.delete_prefix(export_files.temporary_prefix(context, attempt))
        prefix = f"{context.prefix}/export/{attempt}"
        copy = manifest.read_whole(context.buckets.export, prefix)
        if copy is None:
            context.buckets.export.delete_prefix(f"{prefix}/")  # what an attempt that was killed has uploaded
            continue
        try:
            into = context.work / f"attempt-{attempt}"
            folder = manifest.fetch(context.buckets.export, prefix, into, in_place=True)
        except manifest.IncompleteFolder as error:
            log.warning("%s; exporting again", error)
            continue
        log.info("reusing the complete export of attempt %d", attempt)
        parity = json.loads((folder / parity_check.NAME).read_text())["figures"]
        return CertifiedExport(prefix, folder, copy.artifacts, Parity.model_validate(parity))
    return None


def _export(context: Context) -> CertifiedExport:
    """Write the export, certify it, and publish both to the object store.

    Its weights are uploaded while they are written, and deleted if the export fails.
    """
    context.enter("reading the trained weights")
    trained = trained_weights.locate(context)
    export, prefix = context.buckets.export, f"{context.prefix}/export/{context.fence.attempt}"
    uploads, temporary = (
        UploadedFiles(export, prefix, context.work / "uploaded"),
        export_files.temporary_prefix(context, context.fence.attempt),
    )
    try:
        exported = _export_to(context, trained, uploads)
    except BaseException:
        for remains in (f"{prefix}/", temporary):
            _delete_remains(export, remains)
        raise
    export.delete_prefix(temporary)  # if it fails, the next attempt deletes them, and reuses this export
    return exported


def _delete_remains(objects: Objects, prefix: str) -> None:
    """Delete what a failed export has uploaded.

    An error of the storage is logged, because the one that the export failed with has to be raised.
    """
    try:
        objects.delete_prefix(prefix)
    except Exception as error:
        log.warning("%s was not deleted: %s", prefix, error)


def _export_to(context: Context, trained: TrainedWeights, uploads: UploadedFiles) -> CertifiedExport:
    """Write the export, certify it, and complete it at `uploads.prefix`.

    Raises StepError `export_loses_too_much`, and others.
    """
    folder, export = context.work / "exported", context.buckets.export
    try:
        parity = _write_certified(context, trained, folder, uploads.move)
    except parity_check.LosesTooMuch as loss:
        raise StepError("export_loses_too_much", str(loss), hint=_hint(context, trained)) from loss
    trained_weights.check_base_unchanged(context.buckets, trained)
    if parity.verdict != "passed":
        lossy.rename_weights(folder, context.spec.export, uploads.rename)
    files = manifest.describe(export, folder, uploads.prefix, uploads.artifacts)
    base = context.job.base_model_folder
    card = model_card(
        context.job,
        context.spec,
        files,
        parity,
        at=context.clock.now(),
        licence=folder_contents.family_of(trained.base).licence,
        trained_with=versions.read(trained.folder),
        base=None if base is None else export.uri(base),
        template=ChatTemplate(trained.folder, json_object(trained.folder / "tokenizer_config.json")),
    )
    (folder / "README.md").write_text(card)
    context.enter("saving the export")
    artifacts = manifest.publish(export, folder, uploads.prefix, uploads.artifacts)
    return CertifiedExport(uploads.prefix, folder, artifacts, parity)


def _write_certified(
    context: Context,
    trained: TrainedWeights,
    folder: Path,
    written: Callable[[Path], None],
    *,
    is_function_checked: bool = False,
) -> Parity:
    """Write the export and its certificate.

    written: see `write`. is_function_checked: whether the model in bf16, which a file that rounds is made from, has
    passed `check_function`. Raises StepError, LosesTooMuch.
    """
    certificate = certificate_of(context, trained, folder, "")
    check = parity_check.TimedCheck(certificate, context.clock.monotonic)
    is_new = not (is_function_checked and context.spec.export.rounds)
    note = export_files.write(
        context, trained, folder, written=written, check_exact=check if is_new else lambda file: None
    )
    context.enter("comparing the export with the trained model")
    return parity_check.issue(replace(certificate, note=note, seconds=check.seconds), context.clock.monotonic)


def certificate_of(context: Context, trained: TrainedWeights, folder: Path, note: str) -> parity_check.Certificate:
    """Return the certificate of an export, not issued yet.

    folder: with the export. note: of `write`.
    """
    return parity_check.Certificate(
        context.spec,
        trained,
        cache(partial(held_out_rows.collect, trained.prepared, trained.folder)),
        folder,
        context.work,
        context.llama_cpp,
        context.check_stop,
        note,
        None if trained.adapter is None else partial(_write_base, context, trained, folder),
    )


def _write_base(context: Context, trained: TrainedWeights, folder: Path) -> Path:
    context.enter("measuring what the same rounding costs the base model")
    return export_files.write_base(context, trained, folder)


def _hint(context: Context, trained: TrainedWeights) -> str:
    """Return what to do about an export that loses too much.

    Names the smallest larger quantization whose export passes, after trying them.
    """
    config = context.spec.export_config
    for quantization in larger_exports(config.format, context.spec.quantization):
        context.check_stop()
        log.info("%s loses too much: trying %s, to name one that passes", context.spec.quantization, quantization)
        other = context.spec.model_copy(
            update={"export_config": config.model_copy(update={"quantization": quantization, "accept_loss": False})}
        )
        purpose = f"trying {quantization}, as {context.spec.quantization} loses too much"
        trial = replace(context, spec=other, purpose=purpose)
        folder = context.work / f"tried-{quantization}"
        try:
            _write_certified(trial, trained, folder, export_files.file_mover(context, folder), is_function_checked=True)
        except parity_check.LosesTooMuch as loss:
            log.info("%s does not pass either: %s", quantization, loss)
            continue
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return f"the training result is kept: export again with {quantization}, which passes, or with accept_loss"
    return "the training result is kept: export again in another format, or with accept_loss"
