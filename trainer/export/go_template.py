"""Renderer for the part of Go's text/template that gemtune's Modelfiles use.

The parity check renders prompts with it as Ollama will. Supported (https://pkg.go.dev/text/template): range, if, else
if, else, end, variables, fields of the dot, `eq`, strings, and trim markers. Anything else raises ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"]+')


@dataclass
class _Block:
    """An `if` or `range` block.

    arms: (condition, parts) of each branch; the condition of `else` is None, and that of `range` is what it iterates.
    """

    kind: str
    arms: list[tuple[str | None, list[Any]]] = field(default_factory=list)


def render(template: str, dot: Mapping[str, Any]) -> str:
    """Render a template with the data `dot`. Raises ValueError."""
    parts: list[Any] = []
    stack: list[tuple[_Block | None, list[Any]]] = [(None, parts)]
    for kind, text in _tokens(template):
        current = stack[-1][1]
        if kind == "text":
            current.append(text)
        elif text.startswith(("if ", "range ")):
            keyword, condition = text.split(" ", 1)
            block = _Block(keyword, [(condition, [])])
            current.append(block)
            stack.append((block, block.arms[-1][1]))
        elif text == "else" or text.startswith("else if "):
            block = _innermost_block(stack)
            block.arms.append((text.removeprefix("else if ") if text != "else" else None, []))
            stack[-1] = (block, block.arms[-1][1])
        elif text == "end":
            _innermost_block(stack)
            stack.pop()
        else:
            current.append(("action", text))
    if len(stack) != 1:
        raise ValueError("a block of the template has no end")
    return "".join(_render_parts(parts, dot, {}))


def _tokens(template: str) -> list[tuple[str, str]]:
    """Split a template into alternating ("text", …) and ("action", …).

    A `-` inside an action's braces trims the white space on that side.
    """
    tokens, start, trim = [], 0, False
    for match in _ACTION.finditer(template):
        text = template[start : match.start()]
        text = text.lstrip() if trim else text
        tokens.append(("text", text.rstrip() if match[1] else text))
        tokens.append(("action", match[2]))
        start, trim = match.end(), bool(match[3])
    rest = template[start:]
    return [*tokens, ("text", rest.lstrip() if trim else rest)]


def _innermost_block(stack: list[tuple[_Block | None, list[Any]]]) -> _Block:
    block = stack[-1][0]
    if block is None:
        raise ValueError("the template ends a block that it did not begin")
    return block


def _render_parts(parts: list[Any], dot: Any, variables: dict[str, Any]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        elif isinstance(part, _Block):
            out += _render_block(part, dot, variables)
        else:
            assignment = re.fullmatch(r"(\$\w+)\s*:?=\s*(.+)", part[1])
            if assignment:
                variables[assignment[1]] = _value(assignment[2], dot, variables)
            else:
                out.append(str(_value(part[1], dot, variables)))
    return out


def _render_block(block: _Block, dot: Any, variables: dict[str, Any]) -> list[str]:
    if block.kind == "range":
        ((items, parts),) = block.arms
        return [text for each in _value(items or "", dot, variables) for text in _render_parts(parts, each, variables)]
    for condition, parts in block.arms:
        if condition is None or _value(condition, dot, variables):
            return _render_parts(parts, dot, variables)
    return []


def _value(expression: str, dot: Any, variables: Mapping[str, Any]) -> Any:
    words = _WORD.findall(expression)
    if words[:1] == ["eq"] and len(words) == 3:
        return _operand(words[1], dot, variables) == _operand(words[2], dot, variables)
    if len(words) != 1:
        raise ValueError(f"the template has {expression!r}, which this renderer does not support")
    return _operand(words[0], dot, variables)


def _operand(word: str, dot: Any, variables: Mapping[str, Any]) -> Any:
    if word.startswith('"'):
        return word[1:-1]
    if re.fullmatch(r"\$\w+", word):
        return variables[word]
    if re.fullmatch(r"\.\w+", word):
        return dot[word[1:]]
    raise ValueError(f"the template has {word!r}, which this renderer does not support")
