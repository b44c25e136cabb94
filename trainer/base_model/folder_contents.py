"""Reads and checks the files of a base model's folder, without torch."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gemtune import families
from gemtune.errors import StepError
from gemtune.families.configs.sections import language_model
from gemtune.families.generation import Family
from gemtune.untrusted import MAX_MODEL_FILE_BYTES, Unreadable, read_file, read_json, read_json_object

WEIGHTS = ".safetensors"
# One file with all weights, and the index of several.
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def config_of(folder: Path) -> dict[str, Any]:
    """Read a model's config.json. Raises StepError `bad_base_model`."""
    return _json_object(folder / "config.json")


def family_of(folder: Path) -> Family:
    """Return the family of a model.

    Raises StepError `not_a_gemma`, `model_not_supported`, `bad_base_model`.
    """
    return family_of_config(config_of(folder))


def family_of_config(config: Mapping[str, Any]) -> Family:
    """Return the family that a config.json describes.

    It may be that of an export, whose weights may be quantized. Raises StepError `not_a_gemma`, `model_not_supported`.
    """
    family = families.of_model_type(config.get("model_type"))
    if family is None:
        check_config(config)
    assert family is not None, "a model of no family has a problem"
    return family


def check_config(config: Mapping[str, Any]) -> None:
    """Check by its config.json that a base model can be trained.

    Raises StepError `not_a_gemma`, `model_not_supported`, `bad_base_model`.
    """
    problem = families.problem_of_config(config)
    if problem is not None:
        raise StepError(problem.code, problem.msg, hint=problem.hint)


def is_tied(config: Mapping[str, Any]) -> bool:
    """Return whether the output head is the embedding."""
    return bool(config.get("tie_word_embeddings", language_model(config).get("tie_word_embeddings", True)))


def max_positions(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens the model can read, or None if not stated."""
    return _int_in(config, "max_position_embeddings")


def vocab_size(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens have embeddings, or None if not stated.

    The tokenizer may have more.
    """
    return _int_in(config, "vocab_size")


def check_description(folder: Path, names: Collection[str]) -> None:
    """Check that a model can be trained, and has all of its weight files.

    folder: with the small files at least. names: of all files of the model. Raises StepError `not_a_gemma`,
    `model_not_supported`, `bad_base_model`.
    """
    check_config(config_of(folder))
    if not any(name.endswith(WEIGHTS) for name in names):
        hint = "save it with save_pretrained of transformers"
        raise StepError("bad_base_model", f"the base model has no *{WEIGHTS}", hint=hint)
    missing = sorted(indexed_files(folder) - set(names)) if INDEX in names else []
    if missing:
        message = f"the base model lacks {len(missing)} files of its weights: {', '.join(missing)[:200]}"
        raise StepError("bad_base_model", message, hint="copy the whole folder")


def check_regular_files(folder: Path) -> None:
    """Refuse pipes and devices, whose readers might wait forever.

    Raises StepError `bad_base_model`.
    """
    irregular = sorted(
        path.name for path in folder.iterdir() if path.exists() and not (path.is_file() or path.is_dir())
    )
    if irregular:
        message = f"not a regular file in the base model's folder: {', '.join(irregular)[:200]}"
        raise StepError("bad_base_model", message, hint="put the files themselves there")


def check_weights(path: Path) -> None:
    """Check that a weight file is as long as its header says.

    An interrupted upload leaves a shorter one. Raises StepError `bad_base_model`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        message = f"{path.name} of the base model is damaged: {str(error)[:200]}"
        raise StepError("bad_base_model", message, hint="copy the whole file") from error


def check_header(name: str, beginning: bytes, size: int) -> None:
    """Check the same of a file of which only the beginning is here.

    beginning: with the whole header. size: of the file. Raises StepError `bad_base_model`.
    """
    length = int.from_bytes(beginning[:8], "little")
    try:
        if length > len(beginning) - 8:
            raise ValueError("the header is too long")
        tensors = read_json(beginning[8 : 8 + length], max_bytes=MAX_MODEL_FILE_BYTES)
        end = max(entry["data_offsets"][1] for key, entry in tensors.items() if key != "__metadata__")
        if 8 + length + end != size:
            raise ValueError(f"it has {size} bytes, and its header describes {8 + length + end}")
    except (Unreadable, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        message = f"{name} of the base model is damaged: {str(error)[:200]}"
        raise StepError("bad_base_model", message, hint="choose another revision or model") from error


def indexed_files(folder: Path) -> set[str]:
    """Return the names of the files that the weights are split into."""
    return set(weight_map(folder).values())


def weight_map(folder: Path) -> dict[str, str]:
    """Return the file of each tensor by the index of the weights."""
    stated = _json_object(folder / INDEX).get("weight_map")
    return {str(name): str(file) for name, file in stated.items()} if isinstance(stated, dict) else {}


def weight_files(folder: Path) -> set[Path]:
    """Return the weight files of a model, those that transformers reads.

    One file with all weights counts before those that an index names; without either all files count. A repository of
    the Hub may hold the same weights twice.
    """
    if (folder / WHOLE).is_file():
        return {folder / WHOLE}
    indexed = indexed_files(folder) if (folder / INDEX).is_file() else set()
    return {folder / name for name in indexed} or set(folder.glob(f"*{WEIGHTS}"))


def _int_in(config: Mapping[str, Any], name: str) -> int | None:
    """Return an integer of a config, or None.

    Multimodal models have it in the section for text.
    """
    for section in (config, language_model(config)):
        if isinstance(section.get(name), int):
            return int(section[name])
    return None


def _json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a base model. Raises StepError `bad_base_model`.

    Of repeated keys the last one counts, as transformers reads them.
    """
    named, limit = f"{path.name} of the base model", MAX_MODEL_FILE_BYTES
    try:
        content = read_file(path, named=named, max_bytes=limit)
        return read_json_object(content, named=named, max_bytes=limit, repeated_keys=True)
    except OSError as error:
        raise StepError("bad_base_model", f"{named} cannot be read: {error}", hint="save the model again") from error
    except Unreadable as error:
        raise StepError("bad_base_model", error.message, hint="save the model again") from error


def dtype_of_config(config: Mapping[str, Any]) -> str:
    """Return the name of the type of a model's weights.

    config: content of config.json, where the field has been called `torch_dtype` and `dtype`. float32 if it is missing.
    """
    names = (part.get(field) for part in (config, language_model(config)) for field in ("dtype", "torch_dtype"))
    return str(next((name for name in names if name), "float32"))


def copy_or_link(source: str, target: str) -> None:
    """Copy a file of a model; link to weights, which may be as large as it.

    For `shutil.copytree`. The small files may then be written to.
    """
    if source.endswith(WEIGHTS):
        Path(target).symlink_to(Path(source).resolve())
    else:
        shutil.copyfile(source, target)
