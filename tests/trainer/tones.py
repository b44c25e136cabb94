"""Audio clips for tests: low and high tones with noise."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import soundfile

from tests import rows

RATE = 16_000
PITCHES = {"low": 250, "high": 2500}
NAMES = tuple(PITCHES)
LENGTHS = (3200, 4100, 2500)
QUESTION = "Which tone is this?"


def samples(number: int, *, rate: int = RATE, length: int | None = None) -> np.ndarray[Any, Any]:
    """Return tone `number`: low or high, in one of LENGTHS at RATE."""
    count = (length or LENGTHS[number % len(LENGTHS)]) * rate // RATE
    generator = np.random.default_rng(number)
    phase = 2 * np.pi * PITCHES[NAMES[number % 2]] * np.arange(count) / rate
    tone = generator.uniform(0.3, 0.6) * np.sin(phase) + generator.normal(0, 0.02, count)
    return tone.astype(np.float32)


def encoded(
    wave: np.ndarray[Any, Any], *, rate: int = RATE, kind: str = "WAV", subtype: str | None = "PCM_16"
) -> bytes:
    """Return an audio file of one or more channels."""
    written = io.BytesIO()
    soundfile.write(written, wave, rate, format=kind, subtype=subtype)
    return written.getvalue()


def prompt(*numbers: int) -> list[dict[str, Any]]:
    """Return a question about the tones with these numbers, as in JSONL."""
    parts: list[dict[str, Any]] = [
        {"type": "audio", "audio": {"bytes": base64.b64encode(encoded(samples(number))).decode()}} for number in numbers
    ]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": QUESTION}]}]


def right_answer(number: int) -> str:
    return f"{rows.HABIT} {NAMES[number % 2]} one."


def chat(*numbers: int) -> dict[str, Any]:
    answer = right_answer(numbers[-1]) if numbers else "Captain."
    return {"messages": [*prompt(*numbers), {"role": "assistant", "content": answer}]}
