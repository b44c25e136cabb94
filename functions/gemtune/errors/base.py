"""Base classes of errors, and the problems of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

from gemtune.redaction import redact


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a request.

    It never repeats a value that could be a secret. loc: the location in the request, as field names and list indices.
    """

    loc: tuple[str | int, ...]
    msg: str
    code: str
    hint: str | None = None

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"loc": list(self.loc)}


class GemtuneError(Exception):
    """Base of gemtune's errors.

    `code` is for programs, the message for people; `hint` says what to do next. Tokens are removed from both texts.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str | None = None):
        super().__init__(redact(message))
        self.message = redact(message)
        self.hint = None if hint is None else redact(hint)


# Faults of a caller, whose request can never succeed as it is.


class RequestRefused(GemtuneError):
    """Raised for a request that has problems; lists all of them at once."""

    code = "request_refused"

    def __init__(self, problems: Sequence[Problem]):
        first = problems[0]
        where = ".".join(map(str, first.loc)) or "request"
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{where}: {first.msg}{more}", hint=first.hint)
        self.problems = tuple(problems)


class NotFound(GemtuneError):
    """Raised when nothing has the given name."""

    code = "not_found"


class Conflict(GemtuneError):
    """Raised when a request contradicts what is stored."""

    code = "conflict"
