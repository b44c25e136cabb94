"""Training methods and modalities, by the names that requests use."""

from __future__ import annotations

from typing import Literal

Method = Literal["LoRA", "QLoRA", "Full", "RL"]
Modality = Literal["text", "vision", "audio"]
# Modalities of jobs whose rows have media beside their texts.
MediaModality = Literal["vision", "audio"]
