"""Files of an export: writes its format, and moves weights off a full disk."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import assert_never

from gemtune.request.exports import AdapterExport, GgufExport, MergedExport
from trainer.base_model import folder_contents
from trainer.context import Context
from trainer.conversation.chat_template import ChatTemplate, json_object
from trainer.export import versions
from trainer.export.modelfile import modelfile, turns_of
from trainer.export.trained_weights import TrainedWeights
from trainer.gguf import conversion
from trainer.process.imports import garbage_collection_paused
from trainer.store import manifest
from trainer.store.uploaded_files import UploadedFiles


def temporary_prefix(context: Context, attempt: int) -> str:
    """Return the prefix of weights that are uploaded only to be read again.

    Each attempt has its own: one that was replaced may still run, and must not delete those of its successor.
    """
    return f"{context.prefix}/temporary/{attempt}/"


def file_mover(context: Context, folder: Path) -> Callable[[Path], None]:
    """Return a function that moves a file of a temporary folder.

    Where the local disk is memory, it moves weights to the object store until the export is done. Names are never
    reused, as they are when a folder is written again: a mount may show the older object of a name for a minute.
    """
    if not context.mounted:
        return lambda path: None
    prefix = f"{temporary_prefix(context, context.fence.attempt)}{folder.name}-{uuid.uuid4().hex}"
    return UploadedFiles(context.buckets.export, prefix, context.work / "uploaded").move


def write_base(context: Context, trained: TrainedWeights, exported: Path) -> Path:
    """Write the base model as the export was written; return where it is.

    exported: the folder of the export, whose files are known to be right.
    """
    export = context.spec.export
    folder = context.work / "base_as_exported"
    if not export.rounds and trained.new_tokens is None:
        return trained.base
    written = file_mover(context, folder)
    if isinstance(export, GgufExport) and export.rounds:
        return _write_base_gguf(context, trained, export, exported, folder, written)
    from trainer.export.merge import merge

    quantization = export.quantization if isinstance(export, MergedExport) and export.rounds else "none"
    merge(
        trained.base,
        None,
        folder,
        quantization,
        new_tokens=trained.new_tokens,
        tokenizer=trained.adapter,
        check_stop=context.check_stop,
        written=written,
    )
    return folder


def _write_base_gguf(
    context: Context,
    trained: TrainedWeights,
    export: GgufExport,
    exported: Path,
    folder: Path,
    written: Callable[[Path], None],
) -> Path:
    """Write the base model as GGUF, quantized as the export; return the file."""
    folder.mkdir()
    exact, target = folder / "exact.gguf", folder / export.file_name
    files = (exported / export.file_name, trained.base, trained.folder, exact)
    program = ["-P", "-m", "trainer.certificate.files.base_gguf", str(context.llama_cpp), *map(str, files)]
    conversion.run(program, "measured without its adapter", context.check_stop)
    untrained = (conversion.EMBEDDING,)
    conversion.quantize(exact, target, export.llama_type, context.llama_cpp, untrained, context.check_stop)
    exact.unlink()
    shutil.copyfile(exported / "Modelfile", folder / "Modelfile")
    written(target)
    return target


def write(
    context: Context,
    trained: TrainedWeights,
    folder: Path,
    *,
    written: Callable[[Path], None] = lambda path: None,
    check_exact: Callable[[Path], None] = lambda file: None,
) -> str:
    """Write the export's files; return a note for its certificate, or "".

    An adapter is copied, without importing torch; its weights are linked. written: called with each complete file of
    weights of a merged model or in GGUF, and may put a link in its place. check_exact: see `conversion.write`.
    """
    export = context.spec.export
    if isinstance(export, AdapterExport):
        ignored = shutil.ignore_patterns(manifest.NAME, versions.NAME)
        shutil.copytree(trained.folder, folder, ignore=ignored, copy_function=folder_contents.copy_or_link)
        return ""
    context.enter("merging the weights")
    with garbage_collection_paused():
        import torch  # noqa: F401

        from trainer.export.merge import merge

    merged = partial(
        merge,
        trained.base,
        trained.adapter,
        new_tokens=trained.new_tokens,
        check_stop=context.check_stop,
    )
    match export:
        case MergedExport():
            merged(folder, export.quantization, written=written)
            return ""
        case GgufExport():
            whole = context.work / "merged"
            merged(whole, "none", written=file_mover(context, whole))
            is_trained = trained.adapter is None or context.spec.training_config.train_embeddings
            untrained = () if is_trained else (conversion.EMBEDDING,)
            note = _write_gguf(context, export, whole, folder, untrained, check_exact)
            for file in sorted(folder.glob("*.gguf")):
                written(file)
            return note
    assert_never(export)


def _write_gguf(
    context: Context,
    export: GgufExport,
    whole: Path,
    folder: Path,
    untrained: Sequence[str],
    check_exact: Callable[[Path], None],
) -> str:
    """Write a merged model as GGUF; delete the merged model.

    whole: its folder. Returns a note for the certificate, or "".
    """
    folder.mkdir()
    context.enter("writing GGUF")
    dithered = conversion.write(
        whole, folder, export, context.llama_cpp, untrained, check_stop=context.check_stop, check_exact=check_exact
    )
    turns = turns_of(ChatTemplate(whole, json_object(whole / "tokenizer_config.json")))
    (folder / "Modelfile").write_text(modelfile(turns, export.file_name))
    shutil.rmtree(whole)
    return "" if dithered == 0 else _DITHERED.format(dithered, export.quantization)


_DITHERED = (
    "Of the base model's tensors, {} lay on the grid of {}, as those of a model that was in few bits before do. What "
    "training added would have been rounded away, so they were dithered (noise of up to half a step) before quantizing."
)
