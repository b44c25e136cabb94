"""Check of an export's files: every setting and every tensor."""

from __future__ import annotations

import sys

from gemtune.request.exports import AdapterExport, GgufExport, MergedExport
from trainer.base_model import folder_contents
from trainer.certificate.files import gguf_keys, gguf_settings, settings, vocabulary, weights
from trainer.certificate.files.case import Case
from trainer.export.commands.in_llama_cpp import PROJECTOR
from trainer.gguf import projector
from trainer.gguf.file_layout import contents
from trainer.new_tokens import embedding


def problems(case: Case) -> list[str]:
    """Return in sentences what is wrong with the files of an export.

    None of it is rounding, so no format may have it. A damaged file may raise anything.
    """
    match case.export:
        case AdapterExport():
            return settings.copied_problems(case.trained, case.folder)
        case MergedExport() as export:
            differing = settings.merged_problems(case.base, case.trained, case.folder, export)
            trained = weights.TrainedModel(case.base, case.adapter)
            return differing + weights.merged_problems(trained, case.folder, export.quantization)
        case GgufExport() as export:
            return _gguf_problems(case, export)


def _gguf_problems(case: Case, export: GgufExport) -> list[str]:
    sys.path.insert(0, str(case.tools / "gguf-py"))  # the version of gguf that belongs to the converter
    from trainer.certificate.files import gguf_weights, projector_weights
    from trainer.gguf.llama_library import LlamaModel

    path, stated = case.folder / export.file_name, folder_contents.config_of(case.base)
    config = gguf_settings.with_defaults(stated, case.base)
    model, file = LlamaModel(case.tools, path), contents(path, vocabulary.ARRAYS)
    tokenizer = vocabulary.tokenizer_of(case.trained)
    tokens = vocabulary.token_count(tokenizer)
    if case.adapter is None or embedding.read(case.adapter) is None:  # new tokens get rows, and so do all before them
        tokens = min(tokens, folder_contents.vocab_size(stated) or tokens)
    differing = [
        *settings.gguf_problems(model, case.trained, case.folder, export, has_projector="vision_config" in stated),
        *vocabulary.problems(model, file.metadata, case.trained, tokenizer, tokens),
        *gguf_settings.problems(file.metadata, config),
        *gguf_keys.problems(file, case.trained, gguf_settings.keys(str(file.metadata.get("general.architecture")))),
    ]
    del tokenizer  # it takes hundreds of megabytes
    trained = weights.TrainedModel(case.base, case.adapter)
    differing += gguf_weights.problems(
        trained, config, file, export, tokens, case.tools, was_dithered=case.was_dithered
    )
    if "vision_config" in stated:
        projector.check(case.folder / PROJECTOR, case.base)
        differing += gguf_settings.projector_problems(case.folder / PROJECTOR, case.base)
        differing += projector_weights.problems(trained, case.base, case.folder / PROJECTOR)
    return differing
