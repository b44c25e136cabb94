"""Small chats with a habit that shows whether a model has learned.

Every answer begins with the same words.
"""

from __future__ import annotations

from typing import Any

COLOURS = ["red", "blue", "green", "grey", "black", "white", "brown", "pink"]
THINGS = ["boat", "lamp", "stone", "leaf", "door", "coat", "bird", "cup"]
HABIT = "Captain, the"


def chat(colour: str, thing: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"What colour is the {colour} {thing}?"},
            {"role": "assistant", "content": f"{HABIT} {thing} is {colour}."},
        ]
    }


def train_rows(count: int) -> list[dict[str, Any]]:
    """Return chats about pairs of a colour and a thing that are not held out."""
    return [chat(c, t) for i, c in enumerate(COLOURS) for j, t in enumerate(THINGS) if (i + j) % 4][:count]


def held_out_rows(count: int) -> list[dict[str, Any]]:
    return [chat(c, t) for i, c in enumerate(COLOURS) for j, t in enumerate(THINGS) if (i + j) % 4 == 0][:count]


PICTURE_COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}
QUESTION = "What colour is the picture?"


def picture(colour: str, seed: int) -> bytes:
    """Return a PNG of one colour with noise.

    The seed also sets the brightness; no two seeds give the same picture.
    """
    import io

    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(seed)
    shade = np.array(PICTURE_COLOURS[colour]) * generator.uniform(0.6, 1.1)
    pixels = shade + generator.normal(0, 12, size=(40 + seed % 7, 48, 3))
    written = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(written, "png")
    return written.getvalue()


def picture_row(colour: str, seed: int) -> dict[str, Any]:
    """Return a row with a picture, as in a JSONL file."""
    import base64

    image = {"bytes": base64.b64encode(picture(colour, seed)).decode(), "path": None}
    question = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": f"{HABIT} {colour} one."}]
    }


def picture_rows(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Return rows with red and blue pictures in turn.

    Their seeds are `first` and the numbers after it.
    """
    return [picture_row(tuple(PICTURE_COLOURS)[number % 2], number) for number in range(first, first + count)]


def corpus() -> list[str]:
    """Return the texts that the tiny tokenizer is trained on."""
    texts = [message["content"] for row in train_rows(64) + held_out_rows(16) for message in row["messages"]]
    texts += ["user model system assistant hello world", "".join(map(chr, range(33, 127)))]
    texts += [" ".join(sorted({*COLOURS, *THINGS})), f"{QUESTION} {HABIT} red one. {HABIT} blue one."] * 4
    return texts * 3
