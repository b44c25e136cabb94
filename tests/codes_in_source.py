"""Reading of error codes from the source, by syntax alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.syntax import nodes_of, tree_of

# The form of a code. Other texts under the name `code` describe one.
FORM = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Use:
    """One place in the source that gives something a code.

    codes: the codes written at this place; None if it passes on a code from elsewhere.
    """

    file: str
    expression: str
    codes: tuple[str, ...] | None

    @property
    def passes_on(self) -> bool:
        """Return whether the expression passes on a code set elsewhere.

        Such expressions are `code` and attributes like `error.code`.
        """
        return self.expression == "code" or self.expression.endswith(".code")


def uses_in(root: Path, folders: Sequence[str]) -> list[Use]:
    """Return every place of these folders that gives something a `code`."""
    files = {
        path.relative_to(root).as_posix(): path.read_text()
        for folder in folders
        for path in sorted((root / folder).rglob("*.py"))
    }
    own = {file: set(_positions(source)) for file, source in files.items()}
    public = {(name, position) for each in own.values() for name, position in each if not name.startswith("_")}
    return [use for file, source in files.items() for use in _uses(file, source, public | own[file])]


def _positions(source: str) -> Iterator[tuple[str, int]]:
    """Yield each callable that takes a `code`, and its position in a call."""
    for node in nodes_of(source):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args]
            if "code" in names:
                yield node.name, names.index("code")
        elif isinstance(node, ast.ClassDef):
            fields = [
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            ]
            if "code" in fields:
                yield node.name, fields.index("code")
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    names = [argument.arg for argument in item.args.args][1:]
                    if "code" in names:
                        yield node.name, names.index("code")


def _uses(file: str, source: str, positions: Collection[tuple[str, int]]) -> Iterator[Use]:
    constants = {
        target.id: statement.value
        for statement in tree_of(source).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    for node in nodes_of(source):
        for value in _values(node, positions):
            yield Use(file, ast.unparse(value), _codes(value, constants))


def _values(node: ast.AST, positions: Collection[tuple[str, int]]) -> Iterator[ast.expr]:
    """Yield the expressions that a node takes as a code."""
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        yield from (keyword.value for keyword in node.keywords if keyword.arg == "code")
        yield from (node.args[index] for name, index in positions if name == called and index < len(node.args))
    elif isinstance(node, ast.Dict):
        yield from (
            value
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant) and key.value == "code"
        )
    elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            yield from _assigned(target, node.value)


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[ast.expr]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for inner, part in zip(target.elts, value.elts, strict=True):
            yield from _assigned(inner, part)
    elif isinstance(target, ast.Name) and target.id == "code" and not _declares_a_field(value):
        yield value


def _declares_a_field(value: ast.expr) -> bool:
    """Return whether an expression is pydantic's `Field(…)`.

    It describes a field, and gives no code.
    """
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Field"


def _codes(value: ast.expr, constants: Mapping[str, ast.expr]) -> tuple[str, ...] | None:
    if isinstance(value, ast.Constant):
        return (value.value,) if isinstance(value.value, str) and FORM.fullmatch(value.value) else ()
    if isinstance(value, ast.Name) and value.id in constants:
        return _codes(constants[value.id], {})
    return None
