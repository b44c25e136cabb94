"""Transcripts: texts of several turns, each of which begins with its speaker."""

from __future__ import annotations

import re
from typing import Any

from gemtune.datasets.conversation import Turn

# Speakers as Anthropic's pairs have them (Bai et al., arXiv:2204.05862), and many prompts made of these.
_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def turns_of(value: Any) -> list[Turn] | None:
    """Return the turns of a text that begins with `Human:`, else None."""
    begins = isinstance(value, str) and _SPEAKER.match(value)
    if not begins:
        return None
    _, *pieces = _SPEAKER.split(value)
    speakers, texts = pieces[::2], pieces[1::2]
    return [
        Turn("user" if speaker == "Human" else "assistant", text.strip())
        for speaker, text in zip(speakers, texts, strict=True)
    ]


def prompt_of(value: Any) -> list[Turn] | None:
    """Return the turns of a transcript that ends with `Assistant:`.

    None for any other value: a text with one speaker only may be about speakers.
    """
    turns = turns_of(value)
    if turns is None or len(turns) < 2 or turns[-1] != Turn("assistant", ""):
        return None
    return turns[:-1]


def conversation_of(value: Any) -> list[Turn] | None:
    """Return the turns of a transcript of both speakers, else None."""
    turns = turns_of(value)
    return turns if turns is not None and len({turn.role for turn in turns}) > 1 else None
