"""Versions of the training libraries, saved for the model card."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path

NAME = "versions.json"
PACKAGES = (
    "gemtune",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "tokenizers",
    "bitsandbytes",
    "liger-kernel",
    "unsloth",
    "unsloth_zoo",
)


def installed() -> dict[str, str]:
    """Return the installed versions of PACKAGES, by name."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def write(folder: Path) -> None:
    """Save the versions of this environment in a folder of trained weights."""
    (folder / NAME).write_text(json.dumps(installed(), indent=1) + "\n")


def read(folder: Path) -> Mapping[str, str]:
    """Return the versions saved in a folder; {} if gemtune was older then."""
    path = folder / NAME
    if not path.is_file():
        return {}
    versions: dict[str, str] = json.loads(path.read_text())
    return versions
