"""Rows of reinforcement learning, made of the chats of `rows`."""

from __future__ import annotations

from typing import Any

from tests import rows


def prompts(chats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """GRPO's: what the user asks, and what the assistant answers."""
    return [{"prompt": chat["messages"][0]["content"], "answer": chat["messages"][1]["content"]} for chat in chats]


def pairs(chats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """DPO's: the answer with its habit is preferred to one without."""
    return [
        {"prompt": row["prompt"], "chosen": row["answer"], "rejected": row["answer"].removeprefix(rows.HABIT) + " Yes."}
        for row in prompts(chats)
    ]
