"""Small chats with a habit that shows whether a model learned: every answer begins with the same words."""

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
    """Pairs of a colour and a thing that are not held out."""
    return [chat(c, t) for i, c in enumerate(COLOURS) for j, t in enumerate(THINGS) if (i + j) % 4][:count]


def held_out_rows(count: int) -> list[dict[str, Any]]:
    return [chat(c, t) for i, c in enumerate(COLOURS) for j, t in enumerate(THINGS) if (i + j) % 4 == 0][:count]


SEEN = {"red": (220, 30, 30), "blue": (30, 30, 220)}
QUESTION = "What colour is the picture?"


def picture(colour: str, seed: int) -> bytes:
    """A PNG of one colour, darker or lighter by the seed, with some noise: no two seeds give the same."""
    import io

    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    shade = np.array(SEEN[colour]) * random.uniform(0.6, 1.1)
    pixels = shade + random.normal(0, 12, size=(40 + seed % 7, 48, 3))
    written = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(written, "png")
    return written.getvalue()


def seen(colour: str, seed: int) -> dict[str, Any]:
    """A row with a picture, as JSONL has it."""
    import base64

    image = {"bytes": base64.b64encode(picture(colour, seed)).decode(), "path": None}
    asked = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    return {
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": f"{HABIT} {colour} one."}]
    }


def picture_rows(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Red and blue pictures in turn, none of which is among those of other numbers."""
    return [seen(tuple(SEEN)[number % 2], number) for number in range(first, first + count)]


def corpus() -> list[str]:
    """What the tiny tokenizer is trained on."""
    texts = [message["content"] for row in train_rows(64) + held_out_rows(16) for message in row["messages"]]
    texts += ["user model system assistant hello world", "".join(map(chr, range(33, 127)))]
    texts += [" ".join(sorted({*COLOURS, *THINGS})), f"{QUESTION} {HABIT} red one. {HABIT} blue one."] * 4
    return texts * 3
