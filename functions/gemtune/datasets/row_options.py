"""Options: what a request says about the rows of its dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SameRole = Literal["refuse", "merge"]
FormatName = Literal[
    "openai",
    "anthropic",
    "vertex",
    "sharegpt",
    "exchanges",
    "prompt_completion",
    "question_answer",
    "alpaca",
    "xlam",
    "glaive",
    "chatgpt",
    "claude",
    "text",
]
RlFormatName = Literal["preference", "openai_preference", "vertex_preference", "choice", "labelled", "prompt"]
StatedFormat = Literal[FormatName, RlFormatName]
# Formats of the rows of each algorithm of RL.
RL_FORMATS: Mapping[str, tuple[RlFormatName, ...]] = {
    "dpo": ("preference", "openai_preference", "vertex_preference", "choice"),
    "kto": ("labelled",),
    "grpo": ("prompt",),
}


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Options for reading the rows of a dataset.

    format: name of the rows' format; None: detect it. columns: the row's own name of each field, or None for a field
    to ignore. with_pictures: rows may hold pictures, as in a vision job. with_audio: rows may hold audio, as in an
    audio job. same_role: what to do with two turns of one role in a row.
    """

    format: StatedFormat | None = None
    columns: Mapping[str, str | None] = field(default_factory=dict)
    with_pictures: bool = False
    with_audio: bool = False
    same_role: SameRole = "refuse"

    @property
    def ignored(self) -> frozenset[str]:
        """Return the fields to ignore.

        A field inside a column is written with a dot, as in `messages.name`.
        """
        return frozenset(name for name, column in self.columns.items() if column is None)
