"""Random conversations as rows of OpenAI's format."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

Row = dict[str, Any]
WORDS = (
    "yes",
    "no",
    "model",
    "user",
    "system",
    "thought",
    "tool",
    "call:add{a:1}",
    "7",
    "2.50",
    "{}",
    '"',
    "'",
    "<",
    "<turn",
    "<|",
    "|",
    "```",
    "Zürich",
    "日本",
    "🦆",
    "\n",
    "\n\n",
    "  ",
    "\t",
    "a_b",
    "END.",
)


def text(random: Random) -> str:
    """Return a text with blanks around it, and words that look like turns."""
    words = random.choices(WORDS, k=random.randint(1, 6))
    blanks = ("", " ", "\n", "\n\n")
    return random.choice(blanks) + "x" + random.choice(("", " ")).join(words) + random.choice(blanks)


def plain_row(random: Random, *, system: bool) -> Row:
    """Return a row of texts; a system message may come first."""
    roles = ["user", "assistant"] * random.randint(1, 3)
    messages: list[Row] = [{"role": role, "content": text(random)} for role in roles]
    if system and random.random() < 0.5:
        messages.insert(0, {"role": "system", "content": text(random)})
    return {"messages": messages}


def translation_row(random: Random) -> Row:
    row = plain_row(random, system=False)
    for message in row["messages"]:
        if message["role"] == "user":
            codes = {"source_lang_code": "en", "target_lang_code": random.choice(("de", "cs", "de-DE"))}
            message["content"] = [{"type": "text", "text": message["content"]} | codes]
    return row


def value(random: Random, depth: int = 2) -> Any:
    """Return an argument of a call."""
    simple: list[Any] = [text(random), random.randint(-9, 99), random.random() < 0.5, 2.5]
    if depth == 0:
        return random.choice(simple)
    inner = [value(random, depth - 1) for _ in range(random.randint(0, 2))]
    return random.choice([*simple, inner, {f"k{number}": each for number, each in enumerate(inner)}])


def tool_row(random: Random, *, thinking: bool) -> Row:
    """Return a row in which the assistant may think and call tools."""
    messages: list[Row] = []
    if random.random() < 0.5:
        messages.append({"role": "system", "content": text(random)})
    for _ in range(random.randint(1, 3)):
        messages.append({"role": "user", "content": text(random)})
        for step in range(random.randint(0, 2)):
            ids = [f"c{len(messages)}{step}{number}" for number in range(random.randint(1, 2))]
            message: Row = {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": each,
                        "type": "function",
                        "function": {
                            "name": random.choice(("weather", "add")),
                            "arguments": {
                                name: value(random) for name in random.sample(("b", "a", "C"), random.randint(0, 2))
                            },
                        },
                    }
                    for each in ids
                ],
            }
            if random.random() < 0.2:
                message["content"] = text(random)
            messages.append(message)
            messages += [{"role": "tool", "tool_call_id": each, "content": text(random)} for each in ids]
        if messages[-1]["role"] == "user" or random.random() < 0.8:
            messages.append({"role": "assistant", "content": text(random)})
    if random.random() < 0.2 and messages[-1]["role"] == "tool":
        messages = messages[: max(n for n, each in enumerate(messages) if "tool_calls" in each) + 1]
    for message in messages:
        if thinking and message["role"] == "assistant" and random.random() < 0.15:
            message["reasoning_content"] = text(random)
    row: Row = {"messages": messages}
    if any("tool_calls" in message for message in messages) or random.random() < 0.3:
        row["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "description": text(random),
                    "parameters": {
                        "type": "object",
                        "properties": {"a": {"type": "string", "description": "A."}},
                        "required": ["a"],
                    },
                },
            }
            for name in ("weather", "add")
        ]
    if thinking and random.random() < 0.3:
        row["chat_template_kwargs"] = {"enable_thinking": True}
    return row


def weighted(random: Random, messages: Sequence[Row]) -> list[Row]:
    """Give some messages of the assistant a weight."""
    return [
        message
        | ({"weight": random.choice((0, 1))} if message["role"] == "assistant" and random.random() < 0.3 else {})
        for message in messages
    ]
