"""Question to a model, as commands ask it."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """A question to a model, as code.

    messages: in Python. picture: the content of a message with a picture, in Python. prompt: the whole prompt without
    `<bos>`, for programs whose messages cannot have what the chat template needs; None where they can. instruction: the
    user's part of it. tools_end: the token after which the model waits for the results of its calls, "" if there is
    none; None without tools.
    """

    messages: str
    picture: str
    prompt: str | None = None
    instruction: str = ""
    tools_end: str | None = None

    def request(self, address: str) -> str:
        """Return a command that asks a server with OpenAI's API."""
        body: dict[str, Any]
        if self.prompt is None:
            path, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello!"}]}
        else:
            path, body = "/v1/completions", {"prompt": self.prompt, "max_tokens": 64}
        quoted = shlex.quote(json.dumps({"model": "mine"} | body, ensure_ascii=False))
        return f"curl {address}{path} -H 'Content-Type: application/json' \\\n  -d {quoted}"


PLAIN = Example(
    '[{"role": "user", "content": "Hello!"}]',
    '[{"type": "image", "path": "picture.jpg"}, {"type": "text", "text": "What is this?"}]',
)
