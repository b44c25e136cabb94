"""The base model that a request names: a Hub id, `gs://bucket/folder` or a local folder, and what its folder holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gemtune import families
from gemtune.errors import Problem
from gemtune.families.size import ModelSize
from gemtune.machines import model_size
from gemtune.request.spec import HUB_ID
from gemtune.untrusted import Unreadable, read_json_object

# Where prepare copies models of the Hub to, in the export bucket.
COPIES = "models"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """kind `hub`: place is a repository. `gs`: place is `bucket/folder`. `folder`: place is an absolute path."""

    kind: Literal["hub", "gs", "folder"]
    place: str


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What the folder of a base model holds.

    config: its config.json; None when it is missing or cannot be read, and config_problem says why it cannot.
    weights_bytes: of its weights in all, 0 when they were not counted.
    """

    config: Mapping[str, Any] | None
    config_problem: str | None = None
    weights_bytes: int = 0

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields of its config.json; none when that is missing or cannot be read."""
        return {} if self.config is None else self.config

    @property
    def size(self) -> ModelSize | None:
        """Its size, None when its files do not say."""
        return model_size.of_folder(self.fields, self.weights_bytes) if self.fields and self.weights_bytes else None


def parse(base_model_id: str) -> BaseModel | None:
    """What an id names, by its form alone; None when it has none of the three forms."""
    if base_model_id.startswith("gs://"):
        rest = base_model_id.removeprefix("gs://").rstrip("/")
        return BaseModel("gs", rest) if re.fullmatch(r"^[a-z0-9][a-z0-9._-]{1,61}/[^\0]+$", rest) else None
    if base_model_id.startswith("/"):
        return BaseModel("folder", base_model_id) if "\0" not in base_model_id else None
    return BaseModel("hub", base_model_id) if re.fullmatch(HUB_ID, base_model_id) else None


def public_name(base_model_id: str) -> str:
    """Return what others may call a base model: its Hub id, or the last part of its path, which says nothing of the
    machine or the bucket that it lies on."""
    named = parse(base_model_id)
    return base_model_id if named is not None and named.kind == "hub" else base_model_id.rstrip("/").rpartition("/")[2]


def problem_of_id(base_model_id: str) -> Problem | None:
    if parse(base_model_id) is not None:
        return None
    hint = "use a Hub id such as google/gemma-3-270m-it, gs://bucket/folder, or an absolute local folder"
    return Problem(("training_config", "base_model_id"), "this names no base model", "bad_base_model", hint)


def copies_folder(repository: str) -> str:
    """The folder of the export bucket that has a folder for each copied revision of a repository of the Hub."""
    return f"{COPIES}/{repository.replace('/', '--')}"


def describe_folder(read_config: Callable[[], bytes | None], objects: Mapping[str, int]) -> ModelFiles:
    """Describe a folder.

    read_config: reads its config.json, None when there is none; may raise Unreadable. objects: name -> bytes of its
    files.
    """
    weights = sum(size for name, size in objects.items() if name.endswith(".safetensors"))
    try:
        content = read_config()
        # As transformers reads it, the last of several values of a key counts.
        config = None if content is None else read_json_object(content, named="its config.json", repeated_keys=True)
    except Unreadable as error:
        return ModelFiles(None, error.message, weights)
    return ModelFiles(config, None, weights)


def why_no_pictures(config: Mapping[str, Any]) -> str | None:
    """Why a model with this config.json cannot be trained on pictures here; None if it can."""
    found = families.of_config(config)
    if found is None:
        return "it is no model that is trained here"
    reason = found[1].why_no_pictures
    return reason if reason is not None or isinstance(config.get("vision_config"), dict) else "it has no vision tower"
