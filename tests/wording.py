"""Rules of wording for docstrings, names and formatting in Python files.

Each rule returns (line, message) for everything that breaks it.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

from tests.syntax import nodes_of

# A first word that leaves the main clause to the reader: "What importing costs." instead of "Measure the imports."
HEADLESS = re.compile(
    r"\W*(As|Behind|Beside|By|How|If|Its?|Of|So|That|Them|There|These|They|Those|What|Whatever|When|Where|Whether|Which"
    r"|Who|Whoever|Whom|Whose)\b"
)
# A participle or adverb that hides the value of a variable, which `targets`, `services` or `rows` would tell.
VAGUE_NAME = re.compile(r"asked|found|given|got|here|judged|kept|known|made|made_of|said|seen|taken|there|told|wanted")
LAST_COLUMN = 79
Problem = tuple[int, str]


def docstring_problems(source: str) -> list[Problem]:
    """Find docstrings that begin with a headless word or a long line.

    The text of the first line ends before column 80; closing quotes may stand behind it.
    """
    problems: list[Problem] = []
    lines = source.splitlines()
    for docstring, text in _docstrings(source):
        first = lines[docstring.lineno - 1].rstrip()
        if docstring.lineno == docstring.end_lineno:
            first = first.removesuffix('"""')
        if len(first) > LAST_COLUMN:
            problems.append((docstring.lineno, f"the first line of the docstring ends in column {len(first)}, not 79"))
        headless = HEADLESS.match(text)
        if headless is not None:
            problems.append(
                (docstring.lineno, f"the docstring begins with {headless[1]!r} and not with a verb or noun")
            )
    return problems


def _docstrings(source: str) -> Iterator[tuple[ast.Constant, str]]:
    """Yield each docstring with its text."""
    for node in nodes_of(source):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            yield first.value, first.value.value


def name_problems(source: str) -> list[Problem]:
    """Find variables and parameters with a vague name."""
    problems: list[Problem] = []
    for node in nodes_of(source):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        else:
            continue
        if VAGUE_NAME.fullmatch(name):
            problems.append((node.lineno, f"{name!r} does not say what it holds"))
    return sorted(problems)


def unformatted_lines(source: str) -> list[int]:
    """Return the lines with a comment that keeps the formatter away."""
    if "fmt: " not in source:  # most files; to read all their tokens takes seconds
        return []
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and re.match(r"# fmt: (skip|off)\b", token.string)
    ]
