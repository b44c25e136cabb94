"""Renders the part of Go's text/template that gemtune's Modelfiles use, to check what Ollama will make of them.

Known: range, if, else if, else, end, variables, fields of the dot and of variables, `eq`, strings, trim markers
(https://pkg.go.dev/text/template). Anything else raises ValueError.
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
    """`if` or `range`: its arms, each with what it asks (None for else) and its parts."""

    kind: str
    arms: list[tuple[str | None, list[Any]]] = field(default_factory=list)


def render(template: str, given: Mapping[str, Any]) -> str:
    """The text that a template makes of the dot `given`."""
    parts: list[Any] = []
    stack: list[tuple[_Block | None, list[Any]]] = [(None, parts)]
    for kind, text in _pieces(template):
        here = stack[-1][1]
        if kind == "text":
            here.append(text)
        elif text.startswith(("if ", "range ")):
            word, asked = text.split(" ", 1)
            block = _Block(word, [(asked, [])])
            here.append(block)
            stack.append((block, block.arms[-1][1]))
        elif text == "else" or text.startswith("else if "):
            opened = _opened(stack)
            opened.arms.append((text.removeprefix("else if ") if text != "else" else None, []))
            stack[-1] = (opened, opened.arms[-1][1])
        elif text == "end":
            _opened(stack)
            stack.pop()
        else:
            here.append(("action", text))
    if len(stack) != 1:
        raise ValueError("a block of the template has no end")
    return "".join(_written(parts, given, {}))


def _pieces(template: str) -> list[tuple[str, str]]:
    """Texts and actions in turn; a `-` beside an action's braces eats the white space on that side."""
    found, start, eat = [], 0, False
    for match in _ACTION.finditer(template):
        text = template[start : match.start()]
        text = text.lstrip() if eat else text
        found.append(("text", text.rstrip() if match[1] else text))
        found.append(("action", match[2]))
        start, eat = match.end(), bool(match[3])
    rest = template[start:]
    return [*found, ("text", rest.lstrip() if eat else rest)]


def _opened(stack: list[tuple[_Block | None, list[Any]]]) -> _Block:
    block = stack[-1][0]
    if block is None:
        raise ValueError("the template ends a block that it did not begin")
    return block


def _written(parts: list[Any], dot: Any, variables: dict[str, Any]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        elif isinstance(part, _Block):
            out += _of_block(part, dot, variables)
        else:
            assigned = re.fullmatch(r"(\$\w+)\s*:?=\s*(.+)", part[1])
            if assigned:
                variables[assigned[1]] = _value(assigned[2], dot, variables)
            else:
                out.append(str(_value(part[1], dot, variables)))
    return out


def _of_block(block: _Block, dot: Any, variables: dict[str, Any]) -> list[str]:
    if block.kind == "range":
        ((asked, parts),) = block.arms
        return [text for each in _value(asked or "", dot, variables) for text in _written(parts, each, variables)]
    for asked, parts in block.arms:
        if asked is None or _value(asked, dot, variables):
            return _written(parts, dot, variables)
    return []


def _value(expression: str, dot: Any, variables: Mapping[str, Any]) -> Any:
    words = _WORD.findall(expression)
    if words[:1] == ["eq"] and len(words) == 3:
        return _operand(words[1], dot, variables) == _operand(words[2], dot, variables)
    if len(words) != 1:
        raise ValueError(f"the template says {expression!r}, which is not known here")
    return _operand(words[0], dot, variables)


def _operand(word: str, dot: Any, variables: Mapping[str, Any]) -> Any:
    if word.startswith('"'):
        return word[1:-1]
    if re.fullmatch(r"\$\w+", word):
        return variables[word]
    if re.fullmatch(r"\.\w+", word):
        return dot[word[1:]]
    raise ValueError(f"the template says {word!r}, which is not known here")
