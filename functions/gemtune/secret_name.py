"""What a name of a secret may be, in a folder as in Secret Manager, whose rule it is."""

from __future__ import annotations

import re

from gemtune.errors import UnsafeName

NAME = re.compile(r"^[A-Za-z0-9_-]{1,255}\Z")


def checked(name: str) -> str:
    """The name. Raises UnsafeName."""
    if not NAME.fullmatch(name):
        raise UnsafeName("a secret's name has letters, digits, '_' and '-' only")
    return name


def missing_hint(name: str) -> str:
    """What to do when a secret is not there."""
    return f"store it with `gemtune secret`: {name}"
