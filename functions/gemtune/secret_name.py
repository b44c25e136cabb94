"""Rules for secret names: those of Secret Manager, for secrets in files too."""

from __future__ import annotations

import re

from gemtune.errors import UnsafeName

NAME = re.compile(r"^[A-Za-z0-9_-]{1,255}\Z")


def validate_name(name: str) -> str:
    """Return a secret's name unchanged. Raises UnsafeName if it is invalid."""
    if not NAME.fullmatch(name):
        raise UnsafeName("the name of a secret may contain only letters, digits, '_' and '-'")
    return name


def missing_hint(name: str) -> str:
    """Return the hint of an error about a secret that does not exist."""
    return f"store it with `gemtune secret`: {name}"
