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


def corpus() -> list[str]:
    """What the tiny tokenizer is trained on."""
    texts = [message["content"] for row in train_rows(64) + held_out_rows(16) for message in row["messages"]]
    texts += ["user model system assistant hello world", "".join(map(chr, range(33, 127)))]
    texts += [" ".join(sorted({*COLOURS, *THINGS}))] * 4
    return texts * 3
