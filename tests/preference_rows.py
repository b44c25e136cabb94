"""Rows for reinforcement learning, made from the chats of `rows`."""

from __future__ import annotations

from itertools import cycle
from typing import Any

from tests import rows


def prompts(chats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make rows for GRPO: the question of a user and the expected answer."""
    return [{"prompt": chat["messages"][0]["content"], "answer": chat["messages"][1]["content"]} for chat in chats]


def pairs(chats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make rows for DPO: an answer with the habit is preferred to one without."""
    return [
        {"prompt": row["prompt"], "chosen": row["answer"], "rejected": row["answer"].removeprefix(rows.HABIT) + " Yes."}
        for row in prompts(chats)
    ]


def labelled(chats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make rows for KTO: answers with the habit are good, others are not."""
    return [
        {"prompt": pair["prompt"], "completion": pair["chosen" if good else "rejected"], "label": good}
        for pair, good in zip(pairs(chats), cycle([True, False]), strict=False)
    ]
