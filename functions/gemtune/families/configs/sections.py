"""Sections of a config.json: the language model, and the towers around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TOWERS = ("vision_config", "audio_config")


def language_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config.json that describes the language model.

    It is a section in models with several parts, and all of it in others.
    """
    section = config.get("text_config")
    return section if isinstance(section, Mapping) else config


def towers(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield names and content of the sections about parts that see or hear."""
    for name in TOWERS:
        section = config.get(name)
        if isinstance(section, Mapping):
            yield name, section
