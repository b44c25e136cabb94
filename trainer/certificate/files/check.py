"""Check of an export's files: every setting and every tensor."""

from __future__ import annotations

import sys

from gemtune.request.exports import AdapterExport, GgufExport, MergedExport
from trainer.base_model import folder_contents
from trainer.certificate.files import gguf_keys, gguf_settings, settings, vocabulary, weights
from trainer.certificate.files.case import Case
from trainer.certificate.files.vocabulary import Vocabulary
from trainer.export.commands.in_llama_cpp import PROJECTOR
from trainer.gguf import projector
from trainer.gguf.file_layout import contents
from trainer.gguf.llama_library import LlamaModel
from trainer.new_tokens import embedding


def llama_model(case: Case) -> LlamaModel | None:
    """Load a GGUF file in llama.cpp; return None for other formats.

    Raises LoadError.
    """
    return LlamaModel(case.tools, case.folder / case.export.file_name) if isinstance(case.export, GgufExport) else None


def problems(case: Case, model: LlamaModel | None = None) -> list[str]:
    """Return in sentences what is wrong with the files of an export.

    None of it is rounding, so no format may have it. model: `llama_model` of the case, if it is loaded already. A
    damaged file may raise anything.
    """
    match case.export:
        case AdapterExport():
            return settings.copied_problems(case.trained, case.folder)
        case MergedExport() as export:
            differing = settings.merged_problems(case.base, case.trained, case.folder, export)
            trained = weights.TrainedModel(case.base, case.adapter)
            return differing + weights.merged_problems(trained, case.folder, export.quantization)
        case GgufExport() as export:
            return _gguf_problems(case, export, model or LlamaModel(case.tools, case.folder / export.file_name))


def _gguf_problems(case: Case, export: GgufExport, model: LlamaModel) -> list[str]:
    sys.path.insert(0, str(case.tools / "gguf-py"))  # the version of gguf that belongs to the converter
    from trainer.certificate.files import gguf_weights, projector_weights

    path, stated = case.folder / export.file_name, folder_contents.config_of(case.base)
    config = gguf_settings.with_defaults(stated, case.base)
    file, of_training = contents(path, vocabulary.ARRAYS), Vocabulary.read(case.trained)
    tokens = of_training.count
    if case.adapter is None or embedding.read(case.adapter) is None:  # new tokens get rows, and so do all before them
        tokens = min(tokens, folder_contents.vocab_size(stated) or tokens)
    differing = [
        *settings.gguf_problems(model, case.trained, case.folder, export, has_projector="vision_config" in stated),
        *vocabulary.problems(model, file.metadata, case.trained, of_training, tokens),
        *gguf_settings.problems(file.metadata, config),
        *gguf_keys.problems(file, case.trained, gguf_settings.keys(str(file.metadata.get("general.architecture")))),
    ]
    del of_training  # it takes hundreds of megabytes
    trained = weights.TrainedModel(case.base, case.adapter)
    differing += gguf_weights.problems(
        trained, config, file, export, tokens, case.tools, was_dithered=case.was_dithered
    )
    if "vision_config" in stated:
        projector.check(case.folder / PROJECTOR, case.base)
        differing += gguf_settings.projector_problems(case.folder / PROJECTOR, case.base)
        differing += projector_weights.problems(trained, case.base, case.folder / PROJECTOR)
    return differing
