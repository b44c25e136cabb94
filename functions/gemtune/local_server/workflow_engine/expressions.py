"""Compiler from expressions to functions of the variables.

Types are as strict as Google's: no operator converts its operands.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import LarkError, UnexpectedInput

from gemtune.local_server.workflow_engine.errors import language_error
from gemtune.local_server.workflow_engine.functions import FUNCTIONS

Variables = dict[str, Any]
# Inputs of an evaluation: the variables, and the environment that sys.get_env reads.
Scope = tuple[Variables, Mapping[str, str]]
Evaluate = Callable[[Scope], Any]

_PARSER = Lark((Path(__file__).parent / "expressions.lark").read_text(), parser="lalr", maybe_placeholders=False)

_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}
_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class ExpressionError(Exception):
    """Raised for invalid syntax, unknown functions and wrong argument counts."""


def parse(text: str) -> Tree[Token] | Token:
    """Parse an expression, given without its `${}`. Raises ExpressionError."""
    try:
        tree = _PARSER.parse(text)
    except UnexpectedInput as error:
        column = getattr(error, "column", "?")
        raise ExpressionError(f"{text!r} is not a valid expression (column {column})") from None
    except LarkError as error:
        raise ExpressionError(f"{text!r} is not a valid expression: {error}") from None
    for name, count in _calls(tree):
        function = FUNCTIONS.get(name)
        if function is None:
            raise ExpressionError(f"there is no function {name!r}")
        if count not in function.arguments:
            raise ExpressionError(f"{name} takes {function.arguments} arguments, not {count}")
    return tree


def variables_of(tree: Tree[Token] | Token) -> Iterator[str]:
    """Yield the names of the variables that an expression reads."""
    for variable in tree.find_data("variable") if isinstance(tree, Tree) else ():
        yield str(variable.children[0])


def compile_expression(tree: Tree[Token] | Token) -> Evaluate:
    """Compile an expression to a function of its scope.

    Calling that function can raise WorkflowError.
    """
    assert isinstance(tree, Tree)
    children = [child if isinstance(child, Token) else compile_expression(child) for child in tree.children]
    return _NODES[tree.data](children)


def _calls(tree: Tree[Token] | Token) -> Iterator[tuple[str, int]]:
    """Yield the name and argument count of each call in an expression."""
    for call in tree.find_data("call") if isinstance(tree, Tree) else ():
        yield str(call.children[0]), len(call.children) - 1


def _constant(convert: Callable[[str], Any]) -> Callable[[list[Any]], Evaluate]:
    """Return the compiler of a literal; `convert` parses its text."""

    def node(children: list[Any]) -> Evaluate:
        value = convert(str(children[0]) if children else "")
        return lambda scope: value

    return node


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def _unquote(literal: str) -> str:
    """Return a string literal's value: without quotes, with escapes replaced."""
    inner, text, escaped = literal[1:-1], [], False
    for character in inner:
        if escaped:
            text.append(_ESCAPES.get(character, character))
        elif character != "\\":
            text.append(character)
        escaped = character == "\\" and not escaped
    return "".join(text)


def _variable(children: list[Any]) -> Evaluate:
    """Compile the use of a variable."""
    name = str(children[0])

    def evaluate(scope: Scope) -> Any:
        if name not in scope[0]:
            raise language_error("KeyError", f"variable {name!r} is not set")
        return scope[0][name]

    return evaluate


def _property(children: list[Any]) -> Evaluate:
    """Compile an access such as `value.name`."""
    inner, name = children[0], str(children[1])
    return lambda scope: _item(inner(scope), name)


def _index(children: list[Any]) -> Evaluate:
    """Compile an access such as `value[key]`."""
    inner, key = children
    return lambda scope: _item(inner(scope), key(scope))


def _item(value: Any, key: Any) -> Any:
    """Return an item of a map or list.

    Raises WorkflowError with the tag KeyError, IndexError or TypeError.
    """
    if isinstance(value, dict) and isinstance(key, str):
        if key not in value:
            raise language_error("KeyError", f"there is no key {key!r}")
        return value[key]
    if isinstance(value, list) and isinstance(key, int) and not isinstance(key, bool):
        if not 0 <= key < len(value):
            raise language_error("IndexError", f"there is no index {key}")
        return value[key]
    raise language_error("TypeError", f"a {_kind(value)} has no item {key!r}")


def _call(children: list[Any]) -> Evaluate:
    """Compile a call of a standard library function."""
    function, arguments = FUNCTIONS[str(children[0])], children[1:]

    def evaluate(scope: Scope) -> Any:
        return function.call(scope[1], *(argument(scope) for argument in arguments))

    return evaluate


def _chain(children: list[Any]) -> Evaluate:
    """Compile a chain such as `a + b - c`, evaluated from left to right."""

    def evaluate(scope: Scope) -> Any:
        value = children[0](scope)
        for sign, operand in zip(children[1::2], children[2::2], strict=True):
            value = _arithmetic(str(sign), value, operand(scope))
        return value

    return evaluate


def _arithmetic(sign: str, left: Any, right: Any) -> Any:
    """Apply an operator to two numbers, or `+` to two strings."""
    both_strings = sign == "+" and isinstance(left, str) and isinstance(right, str)
    if not both_strings and not (_is_number(left) and _is_number(right)):
        raise language_error("TypeError", f"{_kind(left)} {sign} {_kind(right)} is not defined")
    try:
        return _ARITHMETIC[sign](left, right)
    except ZeroDivisionError:
        raise language_error("ZeroDivisionError", f"{left} {sign} {right}") from None


def _comparison(children: list[Any]) -> Evaluate:
    """Compile a comparison: `==`, `!=`, `<`, `<=`, `>`, `>=` or `in`."""
    left_of, sign, right_of = children

    def evaluate(scope: Scope) -> bool:
        left, right = left_of(scope), right_of(scope)
        if sign in ("==", "!="):
            return _equal(left, right) is (sign == "==")
        if sign == "in":
            return _contains(right, left)
        comparable = (_is_number(left) and _is_number(right)) or (isinstance(left, str) and isinstance(right, str))
        if not comparable:
            raise language_error("TypeError", f"{_kind(left)} {sign} {_kind(right)} is not defined")
        return _ORDER[str(sign)](left, right)

    return evaluate


def _equal(left: Any, right: Any) -> bool:
    """Return whether two values are equal; unlike in Python, True is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def _contains(container: Any, item: Any) -> bool:
    """Return whether a list has an item or a map has a key."""
    if isinstance(container, list):
        return any(_equal(item, other) for other in container)
    if isinstance(container, dict):
        return item in container
    raise language_error("TypeError", f"`in` needs a list or a map, not a {_kind(container)}")


def _logic(word: str, decisive: bool) -> Callable[[list[Any]], Evaluate]:
    """Return the compiler of `and` or `or`.

    The first operand that equals `decisive` decides; the operands after it are not evaluated.
    """

    def node(children: list[Any]) -> Evaluate:
        def evaluate(scope: Scope) -> bool:
            return decisive if any(_boolean(word, child(scope)) is decisive for child in children) else not decisive

        return evaluate

    return node


def _not(children: list[Any]) -> Evaluate:
    return lambda scope: not _boolean("not", children[0](scope))


def _minus(children: list[Any]) -> Evaluate:
    return lambda scope: _arithmetic("-", 0, children[0](scope))


def _boolean(word: str, value: Any) -> bool:
    """Return an operand of `and`, `or` or `not`, which must be a boolean."""
    if not isinstance(value, bool):
        raise language_error("TypeError", f"`{word}` needs booleans, not a {_kind(value)}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    """Return the name that Cloud Workflows gives to a value's type."""
    if value is None:
        return "null"
    names: list[tuple[type, str]] = [(bool, "boolean"), (int, "integer"), (float, "double"), (str, "string")]
    names += [(list, "list"), (dict, "map")]
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)


_NODES: Mapping[str, Callable[[list[Any]], Evaluate]] = {
    "integer": _constant(int),
    "floating": _constant(float),
    "text": _constant(_unquote),
    "true": _constant(lambda _: True),
    "false": _constant(lambda _: False),
    "null": _constant(lambda _: None),
    "variable": _variable,
    "property": _property,
    "index": _index,
    "call": _call,
    "sum": _chain,
    "product": _chain,
    "comparison": _comparison,
    "conjunction": _logic("and", False),
    "disjunction": _logic("or", True),
    "not_": _not,
    "minus": _minus,
}
