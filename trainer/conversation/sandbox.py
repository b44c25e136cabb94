"""Jinja's sandbox, in which untrusted chat templates run."""

from __future__ import annotations

from typing import Any

from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Attributes of `loop` that are numbers, or true or false.
OF_LOOPS = frozenset(("first", "last", "index", "index0", "length"))


class Sandbox(ImmutableSandboxedEnvironment):
    """A sandbox that reads the counters of loops without its checks.

    These refuse unsafe attributes and wrap methods of strings, and counters are neither. Chat templates ask for them in
    each message, so that the checks take a third of the time of rendering a short conversation.
    """

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return an attribute of an object, or undefined if it is refused."""
        if type(obj) is LoopContext and attribute in OF_LOOPS:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)
