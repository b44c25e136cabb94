"""Parameters of the HTTP API.

The OpenAPI document and the server share one record for each. Each has a `schema` for the document, a method `read`,
which raises RequestRefused for exactly those texts that the schema refuses, and `absent`, the value if a request does
not have the parameter.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gemtune.errors import Problem, RequestRefused
from gemtune.request.parsing import MOST_PROBLEMS
from gemtune.untrusted import Unreadable, read_number

Place = Literal["query", "header"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeNumber:
    """Whole number between two bounds, both included.

    default: value if the parameter is absent. None is not mentioned in the document.
    """

    name: str
    description: str
    least: int
    most: int
    default: int | None
    place: Place = "query"

    @property
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the parameter."""
        schema = {"type": "integer", "minimum": self.least, "maximum": self.most}
        return schema if self.default is None else schema | {"default": self.default}

    @property
    def absent(self) -> int | None:
        """Return the value if a request does not have the parameter."""
        return self.default

    def read(self, text: str) -> int:
        """Decode a value from a request. Raises RequestRefused."""
        try:
            return read_number(text, least=self.least, most=self.most, named=self.name)
        except Unreadable as error:
            raise _refused(self, error.message, error.code, error.hint) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """One of several words."""

    name: str
    description: str
    values: Sequence[str]
    place: Place = "query"
    absent: None = None

    @property
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the parameter."""
        return {"type": "string", "enum": list(self.values)}

    def read(self, text: str) -> str:
        """Decode a value from a request. Raises RequestRefused."""
        if text not in self.values:
            raise _refused(
                self, f"this is not a known {self.name}", "not_one_of", f"use one of {', '.join(self.values)}"
            )
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Text of 1 to `max_length` characters that matches `pattern` as a whole.

    code, hint: error for a text that does not.
    """

    name: str
    description: str
    max_length: int
    pattern: str
    code: str
    hint: str
    place: Place = "query"
    absent: None = None

    @property
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the parameter."""
        return {"type": "string", "minLength": 1, "maxLength": self.max_length, "pattern": self.pattern}

    def read(self, text: str) -> str:
        """Decode a value from a request. Raises RequestRefused."""
        # fullmatch, because `$` alone would accept a line break at the end.
        if not 1 <= len(text) <= self.max_length or re.fullmatch(self.pattern, text, re.ASCII) is None:
            raise _refused(self, f"this is not a valid {self.name}", self.code, self.hint)
        return text


Parameter = WholeNumber | OneOf | Text


def argument_name(parameter: Parameter) -> str:
    """Return the name of a parameter as a keyword argument of a route."""
    return parameter.name.lower().replace("-", "_")


def decode_parameter(parameter: Parameter, texts: Sequence[str]) -> object:
    """Decode a parameter from all its values in a request.

    Raises RequestRefused, also for a parameter that is repeated.
    """
    if len(texts) > 1:
        raise _refused(parameter, f"{parameter.name} is repeated", "repeated_parameter", "send it once")
    return parameter.read(texts[0]) if texts else parameter.absent


def check_query(parameters: Iterable[Parameter], names: Iterable[str]) -> None:
    """Raise RequestRefused for parameters that an operation does not have.

    `?dryrun=true`, for example, would otherwise train.
    names: those that a request has.
    """
    own_names = sorted(parameter.name for parameter in parameters if parameter.place == "query")
    problems = []
    for name in itertools.islice((name for name in names if name not in own_names), MOST_PROBLEMS):
        near = difflib.get_close_matches(name, own_names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"this call takes {', '.join(own_names) or 'no parameters'}"
        message = "this call has no such parameter"
        problems.append(Problem(("query", name), message, "unknown_parameter", hint))
    if problems:
        raise RequestRefused(problems)


def _refused(parameter: Parameter, message: str, code: str, hint: str | None) -> RequestRefused:
    """Return the error for a parameter that is refused."""
    return RequestRefused([Problem((parameter.place, parameter.name), message, code, hint)])
