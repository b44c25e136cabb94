"""Syntax trees of Python files, parsed and walked through once per process."""

from __future__ import annotations

import ast
from functools import cache


@cache
def nodes_of(source: str) -> tuple[ast.AST, ...]:
    """Return all nodes of a program in the order of `ast.walk`, to read only.

    All files of the project are a million nodes, which take 260 MB and 3 s; a dozen tests look at them.
    """
    return tuple(ast.walk(ast.parse(source)))


def tree_of(source: str) -> ast.Module:
    """Return the syntax tree of a program, to read only."""
    module = nodes_of(source)[0]
    assert isinstance(module, ast.Module)
    return module
