"""What a base model's files say, and whether they are all there. No torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gemtune import families
from gemtune.errors import StepError
from gemtune.families.generation import Family
from gemtune.untrusted import MAX_MODEL_FILE_BYTES, Unreadable, read_file, read_json_object

WEIGHTS = ".safetensors"
INDEX = "model.safetensors.index.json"


def config_of(folder: Path) -> dict[str, Any]:
    """config.json of a model. Raises StepError `bad_base_model`."""
    return _json_object(folder / "config.json")


def family_of(folder: Path) -> Family:
    """The family of a model. Raises StepError `not_a_gemma`, `model_not_supported`, `bad_base_model`."""
    return family_in(config_of(folder))


def family_in(config: Mapping[str, Any]) -> Family:
    """The family that a config.json says. Raises StepError `not_a_gemma`, `model_not_supported`."""
    problem, family = families.problem_of_config(config), families.of_model_type(config.get("model_type"))
    if problem is not None:
        raise StepError(problem.code, problem.msg, hint=problem.hint)
    assert family is not None
    return family


def max_positions(config: Mapping[str, Any]) -> int | None:
    """How many tokens the model can read."""
    return _number(config, "max_position_embeddings")


def vocab_size(config: Mapping[str, Any]) -> int | None:
    """How many tokens the model has embeddings for; its tokenizer may know more."""
    return _number(config, "vocab_size")


def check_description(folder: Path, names: Collection[str]) -> None:
    """Whether a model is trained here and has all its weights: `folder` has its small files, `names` are all it has.

    Raises StepError `not_a_gemma`, `model_not_supported`, `bad_base_model`.
    """
    family_of(folder)
    if not any(name.endswith(WEIGHTS) for name in names):
        hint = "save it with save_pretrained of transformers"
        raise StepError("bad_base_model", f"the base model has no *{WEIGHTS}", hint=hint)
    missing = sorted(indexed(folder) - set(names)) if INDEX in names else []
    if missing:
        message = f"the base model lacks {len(missing)} files of its weights: {', '.join(missing)[:200]}"
        raise StepError("bad_base_model", message, hint="upload the whole folder, and submit again")


def check_kinds(folder: Path) -> None:
    """Refuse what would keep its reader waiting for ever: a pipe, a device. Raises StepError `bad_base_model`."""
    odd = sorted(path.name for path in folder.iterdir() if path.exists() and not (path.is_file() or path.is_dir()))
    if odd:
        message = f"not a regular file in the base model's folder: {', '.join(odd)[:200]}"
        raise StepError("bad_base_model", message, hint="put the files themselves there")


def check_weights(path: Path) -> None:
    """Whether a file of weights is as long as its header says: an upload cut short is no model.

    Raises StepError `bad_base_model`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        message = f"{path.name} of the base model is damaged: {str(error)[:200]}"
        raise StepError("bad_base_model", message, hint="upload the whole file, and submit again") from error


def indexed(folder: Path) -> set[str]:
    """The files among which the weights are split."""
    weight_map = _json_object(folder / INDEX).get("weight_map")
    return {str(file) for file in weight_map.values()} if isinstance(weight_map, dict) else set()


def _number(config: Mapping[str, Any], name: str) -> int | None:
    """A whole number of a config; models that see pictures too keep it with their text part."""
    text_part = config.get("text_config")
    for part in (config, text_part if isinstance(text_part, dict) else {}):
        if isinstance(part.get(name), int):
            return int(part[name])
    return None


def _json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a base model. As transformers reads it, the last of several values of a key counts."""
    named, limit = f"{path.name} of the base model", MAX_MODEL_FILE_BYTES
    try:
        content = read_file(path, named=named, max_bytes=limit)
        return read_json_object(content, named=named, max_bytes=limit, repeated_keys=True)
    except OSError as error:
        raise StepError("bad_base_model", f"{named} cannot be read: {error}", hint="save the model again") from error
    except Unreadable as error:
        raise StepError("bad_base_model", error.message, hint="save the model again") from error
