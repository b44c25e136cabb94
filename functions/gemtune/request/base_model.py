"""The three ways to name a base model: a Hub id, `gs://bucket/folder`, or a local folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gemtune.errors import Problem
from gemtune.request.spec import HUB_ID


@dataclass(frozen=True, slots=True)
class BaseModel:
    """kind `hub`: place is a repository. `gs`: place is `bucket/folder`. `folder`: place is an absolute path."""

    kind: Literal["hub", "gs", "folder"]
    place: str


def read(base_model_id: str) -> BaseModel | None:
    """What an id names, by its form alone; None when it has none of the three forms."""
    if base_model_id.startswith("gs://"):
        rest = base_model_id.removeprefix("gs://").rstrip("/")
        return BaseModel("gs", rest) if re.fullmatch(r"^[a-z0-9][a-z0-9._-]{1,61}/[^\0]+$", rest) else None
    if base_model_id.startswith("/"):
        return BaseModel("folder", base_model_id) if "\0" not in base_model_id else None
    return BaseModel("hub", base_model_id) if re.fullmatch(HUB_ID, base_model_id) else None


def problem_of(base_model_id: str) -> Problem | None:
    if read(base_model_id) is not None:
        return None
    hint = "use a Hub id such as google/gemma-3-270m-it, gs://bucket/folder, or an absolute local folder"
    return Problem(("training_config", "base_model_id"), "this names no base model", "bad_base_model", hint)


def config_of_folder(named: BaseModel) -> bytes:
    """The config.json of a local folder. Raises OSError."""
    return (Path(named.place) / "config.json").read_bytes()


def sees(config: object) -> bool:
    """Whether a model with this config.json can be trained on pictures here: a Gemma 3 with a vision tower. Those of
    Gemma 3n and 4 need timm and torchvision, which this trainer does without."""
    if not isinstance(config, dict) or config.get("model_type") != "gemma3":
        return False
    return isinstance(config.get("vision_config"), dict)
