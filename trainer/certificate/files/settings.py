"""Field-by-field comparison of an export's files with those of the training.

Tokenizer, chat template, special tokens, generation config and hyperparameters. The comparison of logits does not show
all of them: a model that lost the token that ends its answers predicts the same as before.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from gemtune.request.exports import GgufExport, MergedExport
from trainer.base_model import folder_contents
from trainer.conversation.chat_template import ChatTemplate, json_object
from trainer.export import merge, tokenizer_files, versions
from trainer.export.commands.in_llama_cpp import PROJECTOR
from trainer.export.modelfile import modelfile, turns_of
from trainer.gguf.llama_library import LlamaModel
from trainer.new_tokens import embedding
from trainer.store import manifest


def copied_problems(trained: Path, folder: Path) -> list[str]:
    """Return which files of an export differ from those of the training.

    For exports that are a copy of them: adapters, and whole models as they were trained.
    """
    expected = {path.name for path in trained.iterdir() if path.is_file()} - {manifest.NAME, versions.NAME}
    actual = {path.name for path in folder.iterdir()}  # folders too, in which transformers looks for more templates
    problems = [f"{name} is missing" for name in sorted(expected - actual)]
    problems += [f"{name} was not written by the training" for name in sorted(actual - expected)]
    return problems + [
        f"{name} is not the file of the training"
        for name in sorted(expected & actual)
        if manifest.sha256(trained / name) != manifest.sha256(folder / name)
    ]


def merged_problems(base: Path, trained: Path, folder: Path, export: MergedExport) -> list[str]:
    """Return which settings of a merged export differ from the training's.

    trained: the folder of the trained weights, whose tokenizer files count; others come from the base model.
    """
    expected = {
        path.name: path
        for source in (base, trained)
        for pattern in tokenizer_files.COMPANION_FILES
        for path in source.glob(pattern)
        if path.name not in tokenizer_files.EXCLUDED_FILES
    }
    problems = []
    for name, path in sorted(expected.items()):
        if not (folder / name).is_file():
            problems.append(f"{name} is missing")
        elif (folder / name).read_bytes() != path.read_bytes():
            problems.append(_differing_fields(name, path, folder / name))
    own = {"config.json", "generation_config.json", folder_contents.INDEX}
    # Without an index, transformers reads one file of weights.
    indexed = folder_contents.indexed_files(folder) if (folder / folder_contents.INDEX).is_file() else set()
    own |= indexed or {folder_contents.WHOLE}
    problems += _added_files(folder, own | set(expected))
    if "generation_config.json" not in expected:
        stated = tokenizer_files.generation_config(base)
        problems += _differing_values("generation_config.json", stated, json_object(folder / "generation_config.json"))
    rows = merge.rows_of_embedding(base, embedding.read(trained))
    config = merge.config_for(merge.with_vocabulary(folder_contents.config_of(base), rows), export)
    return problems + _differing_values("config.json", config, folder_contents.config_of(folder))


def _added_files(folder: Path, expected: Collection[str]) -> list[str]:
    """Return which files an export should not have.

    transformers and llama.cpp load some files for their names alone, such as adapters and further weights.
    """
    names = {path.name for path in folder.iterdir()} - set(expected)
    return [f"{name} was not there in the training" for name in sorted(names)]


def _differing_fields(name: str, expected: Path, actual: Path) -> str:
    """Return which fields of a JSON file differ, or only that it does."""
    try:
        fields = _differing_values(name, json.loads(expected.read_text()), json.loads(actual.read_text()))
    except (ValueError, UnicodeDecodeError):
        fields = []
    return fields[0] if fields and name != "tokenizer.json" else f"{name} is not that of the training"


def _differing_values(name: str, expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    absent = object()
    ours, theirs = dict(_fields(expected)), dict(_fields(actual))
    return [
        f"{key} of {name} is {_shown(theirs, key)}, not {_shown(ours, key)}"
        for key in sorted({*ours, *theirs})
        if ours.get(key, absent) != theirs.get(key, absent)
    ]


def _fields(section: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of a JSON object, those of its sections too.

    Their names are dotted.
    """
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from _fields(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _shown(fields: Mapping[str, Any], name: str) -> str:
    return json.dumps(fields[name], ensure_ascii=False, default=str)[:80] if name in fields else "missing"


def gguf_problems(
    model: LlamaModel, trained: Path, folder: Path, export: GgufExport, *, has_projector: bool
) -> list[str]:
    """Return which texts and files of a GGUF export are not the training's.

    model: the file in llama.cpp. has_projector: whether a second file has the vision tower. Raises StepError
    `template_not_for_gguf`.
    """
    template = ChatTemplate(trained, json_object(trained / "tokenizer_config.json"))
    problems = []
    if (model.chat_template or "") != template.text:
        problems.append("its chat template is not that of the training")
    if (folder / "Modelfile").read_text() != modelfile(turns_of(template), export.file_name):
        problems.append("the Modelfile is not the one that belongs to the chat template")
    return problems + _added_files(folder, {export.file_name, "Modelfile", *([PROJECTOR] if has_projector else [])})
