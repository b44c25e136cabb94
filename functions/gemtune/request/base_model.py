"""Base model of a request, and the files in its folder.

A request names it by a Hub id, `gs://bucket/folder` or an absolute local folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gemtune import families
from gemtune.errors import Problem
from gemtune.families.generation import NO_AUDIO, NO_VISION_TOWER
from gemtune.families.size import ModelSize
from gemtune.machines import model_size
from gemtune.methods import MediaModality
from gemtune.request.spec import HUB_ID
from gemtune.untrusted import Unreadable, read_json_object

# Folder of the export bucket to which the prepare step copies models of the Hub.
COPIES = "models"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """Base model that a request names.

    place: for kind `hub` the repository, for `gs` `bucket/folder`, for `folder` an absolute path.
    """

    kind: Literal["hub", "gs", "folder"]
    place: str


NO_CONFIG = "there is no config.json in this folder"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Files in the folder of a base model.

    config: content of its config.json; None if that is missing or cannot be read.
    config_problem: why it cannot be read, if so.
    absence: if config.json is missing, what is there instead.
    weights_bytes: total size of its weights files; 0 if they were not counted.
    """

    config: Mapping[str, Any] | None
    config_problem: str | None = None
    weights_bytes: int = 0
    absence: str = NO_CONFIG

    @property
    def fields(self) -> Mapping[str, Any]:
        """Return the fields of its config.json.

        Empty if there is no readable one.
        """
        return {} if self.config is None else self.config

    @property
    def size(self) -> ModelSize | None:
        """Return the size of the model; None if its files do not say."""
        return model_size.of_folder(self.fields, self.weights_bytes) if self.fields and self.weights_bytes else None


def parse(base_model_id: str) -> BaseModel | None:
    """Parse a base_model_id by its form alone.

    None if it has none of the three forms.
    """
    if base_model_id.startswith("gs://"):
        place = base_model_id.removeprefix("gs://").rstrip("/")
        return BaseModel("gs", place) if re.fullmatch(r"^[a-z0-9][a-z0-9._-]{1,61}/[^\0]+$", place) else None
    if base_model_id.startswith("/"):
        return BaseModel("folder", base_model_id) if "\0" not in base_model_id else None
    return BaseModel("hub", base_model_id) if re.fullmatch(HUB_ID, base_model_id) else None


def public_name(base_model_id: str) -> str:
    """Return a name of a base model that may be published.

    That is its Hub id, or the last part of its path, which does not reveal the machine or the bucket it is stored on.
    """
    model = parse(base_model_id)
    return base_model_id if model is not None and model.kind == "hub" else base_model_id.rstrip("/").rpartition("/")[2]


def problem_of_id(base_model_id: str) -> Problem | None:
    """Return what is wrong with the form of a base_model_id, or None."""
    if parse(base_model_id) is not None:
        return None
    hint = "use a Hub id such as google/gemma-3-270m-it, gs://bucket/folder, or an absolute local folder"
    message = "this is not the name of a base model"
    if base_model_id.startswith(("~", ".")):
        message, hint = "a local folder has to be an absolute path", "write the path from / on"
    return Problem(("training_config", "base_model_id"), message, "bad_base_model", hint)


def copies_folder(repository: str) -> str:
    """Return the folder of the export bucket for copies of a repository.

    It has one folder for each revision that was copied.
    """
    return f"{COPIES}/{repository.replace('/', '--')}"


def describe_folder(read_config: Callable[[], bytes | None], objects: Mapping[str, int]) -> ModelFiles:
    """Describe the folder of a base model.

    read_config: returns the content of its config.json, or None if there is none; may raise Unreadable.
    objects: name -> size in bytes, of the folder's files.
    """
    weights = sum(size for name, size in objects.items() if name.endswith(".safetensors"))
    try:
        content = read_config()
        # As in transformers, the last value of a repeated key counts.
        config = None if content is None else read_json_object(content, named="its config.json", repeated_keys=True)
    except Unreadable as error:
        return ModelFiles(None, error.message, weights)
    return ModelFiles(config, None, weights)


class _Media(NamedTuple):
    """A kind of media that models read, and the refusal of those that do not.

    what: the media. part: of config.json, which they need. without_part: the reason if it is missing. code, advice: of
    the refusal.
    """

    what: str
    part: str
    without_part: str
    code: str
    advice: str


_MEDIA: Mapping[MediaModality, _Media] = {
    "vision": _Media(
        "pictures", "vision_config", NO_VISION_TOWER, "model_without_vision", "gemma-3-4b-it or larger, a Gemma 3n or 4"
    ),
    "audio": _Media("audio", "audio_config", NO_AUDIO, "model_without_audio", "Gemma 3n, or Gemma 4 E2B, E4B or 12B"),
}


def why_no_media(modality: MediaModality, config: Mapping[str, Any]) -> str | None:
    """Return why a model cannot be trained on a modality; None if it can.

    config: content of its config.json.
    """
    family_and_type = families.of_config(config)
    if family_and_type is None:
        return "it is not a supported model"
    reason, media = family_and_type[1].why_no_media(modality), _MEDIA[modality]
    return reason if reason is not None or isinstance(config.get(media.part), dict) else media.without_part


def media_refusal(modality: MediaModality, reason: str | None) -> tuple[str, str, str]:
    """Return code, message and hint for a model without a modality."""
    media = _MEDIA[modality]
    message = f"the base model cannot be trained on {media.what}: {reason}"
    return media.code, message, f"use {media.advice}, or modality text"
