"""Small changes of a program, each of which should make a test fail."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.Mod: ast.Add,
}
# Calls whose arguments are texts for people, which tests do not compare word for word.
FOR_PEOPLE = re.compile(r"^(log|logging|warnings|print|click|TypeVar)\b")


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change; `apply` makes it in the tree that it belongs to."""

    line: int
    what: str
    apply: Callable[[], None]


def mutations_of(source: str) -> list[Mutation]:
    """Return all changes of a program, always in the same order."""
    return list(_mutations(ast.parse(source)))


def mutated(source: str, number: int) -> str:
    """Return the program with the change of this number."""
    tree = ast.parse(source)
    list(_mutations(tree))[number].apply()
    return ast.unparse(ast.fix_missing_locations(tree))


def _mutations(tree: ast.Module) -> Iterator[Mutation]:
    skipped = set(_skipped(tree))
    in_functions = {
        inner for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda) for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node not in skipped:
            yield from _of_expression(node)
            yield from _of_statements(node, skipped)
            if node not in in_functions:
                yield from _of_table(node)


def _skipped(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes that no test should depend on, with all their children.

    These are annotations, docstrings, imports and texts for people.
    """
    for node in ast.walk(tree):
        for part in _not_tested(node):
            yield from ast.walk(part)


def _not_tested(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a node that no test depends on, or the node itself."""
    if isinstance(node, ast.FunctionDef):
        arguments = [each.annotation for each in ast.walk(node.args) if isinstance(each, ast.arg)]
        yield from filter(None, [node.returns, *arguments])
    elif isinstance(node, ast.ClassDef):
        yield from node.decorator_list  # frozen and slots
    elif isinstance(node, ast.AnnAssign):
        yield node.annotation
    elif isinstance(node, ast.Subscript) and _is_type(node.value):
        yield node.slice
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    is_for_people = isinstance(node, ast.Call) and FOR_PEOPLE.match(ast.unparse(node.func))
    is_for_stars = isinstance(node, ast.Assign) and "__all__" in map(ast.unparse, node.targets)
    if is_docstring or is_for_types or is_for_people or is_for_stars:
        yield node


def _is_type(node: ast.expr) -> bool:
    """Return whether its subscript is a type, as in `Mapping[str, int]`."""
    name = ast.unparse(node).rpartition(".")[2]
    return name in ("list", "dict", "tuple", "set", "frozenset", "type") or (name[:1].isupper() and not name.isupper())


def _of_expression(node: ast.AST) -> Iterator[Mutation]:
    if isinstance(node, ast.Constant):
        for value in _other_values(node.value):
            yield _change(node, f"{node.value!r} becomes {value!r}", partial(setattr, node, "value", value))
    elif isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            other = COMPARISONS[type(operator)]
            what = f"`{ast.unparse(node)}` by {other.__name__}"
            yield _change(node, what, partial(node.ops.__setitem__, index, other()))
    elif isinstance(node, ast.BoolOp):
        other_op = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield _change(node, f"`{ast.unparse(node)}` by {other_op.__name__}", lambda: setattr(node, "op", other_op()))
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS and not _is_text(node):
        other_op2 = OPERATORS[type(node.op)]
        yield _change(node, f"`{ast.unparse(node)}` by {other_op2.__name__}", lambda: setattr(node, "op", other_op2()))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        # `not not x` is x as a condition
        yield _change(
            node,
            f"`{ast.unparse(node)}` without not",
            lambda: setattr(node, "operand", ast.UnaryOp(ast.Not(), node.operand)),
        )
    elif isinstance(node, ast.IfExp | ast.If | ast.While):
        text = ast.unparse(node.test)
        if not isinstance(node.test, ast.Compare | ast.UnaryOp):  # those have mutations of their own
            yield _change(node, f"not `{text}`", lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test)))


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str)
        for side in (node.left, node.right)
    )


def _other_values(value: object) -> Iterator[object]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    elif isinstance(value, float):
        yield value * 2 + (value == 0)
    elif isinstance(value, str) and re.fullmatch(r"[\w./:-]+", value):  # a key or a name, not a sentence
        yield f"{value}_x"


def _of_statements(node: ast.AST, skipped: set[ast.AST]) -> Iterator[Mutation]:
    for name in ("body", "orelse", "finalbody"):
        statements = getattr(node, name, None)
        if not isinstance(statements, list):
            continue
        for index, statement in enumerate(statements):
            if statement not in skipped and _can_go(statement):
                yield _change(
                    statement,
                    f"without `{ast.unparse(statement).splitlines()[0][:80]}`",
                    partial(statements.__setitem__, index, ast.Pass()),
                )
            if isinstance(statement, ast.Return) and statement.value is not None and not _is_none(statement.value):
                yield _change(
                    statement,
                    f"`{ast.unparse(statement).splitlines()[0][:80]}` returns None",
                    partial(setattr, statement, "value", ast.Constant(None)),
                )


def _can_go(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call) and not FOR_PEOPLE.match(ast.unparse(statement.value.func))
    if isinstance(statement, ast.Assign):
        return isinstance(statement.targets[0], ast.Attribute | ast.Subscript)
    return isinstance(statement, ast.AugAssign | ast.Raise | ast.Continue | ast.Break | ast.Delete)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _of_table(node: ast.AST) -> Iterator[Mutation]:
    """Yield the removals of entries from tables of a module or a class."""
    if isinstance(node, ast.Dict):
        for index, (key, value) in enumerate(zip(node.keys, node.values, strict=True)):
            entry = f"{ast.unparse(key) if key else '**'}: {ast.unparse(value)}"
            yield _change(value, f"without the entry `{entry[:80]}`", partial(_drop, node, index))
    elif isinstance(node, ast.Set | ast.List | ast.Tuple) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        for index, element in enumerate(node.elts):
            what = f"without the entry `{ast.unparse(element)[:80]}`"
            yield _change(element, what, partial(_drop, node, index))


def _drop(table: ast.Dict | ast.Set | ast.List | ast.Tuple, index: int) -> None:
    if isinstance(table, ast.Dict):
        del table.keys[index], table.values[index]
    else:
        del table.elts[index]


def _change(node: ast.AST, what: str, apply: Callable[[], None]) -> Mutation:
    return Mutation(getattr(node, "lineno", 0), " ".join(what.split()), apply)
