"""Text of untrusted documents, which is UTF-8."""

from __future__ import annotations

from collections.abc import Iterable

from gemtune.untrusted.limits import LONE_SURROGATE, Unreadable, lone_surrogate, too_large


def decode_text(content: bytes | str, named: str, max_bytes: int) -> str:
    """Decode a document as UTF-8.

    A byte order mark, with which some editors begin a file, is removed.
    """
    if len(content) > max_bytes:
        raise too_large(named, max_bytes)
    if isinstance(content, str):
        if LONE_SURROGATE.search(content):
            raise lone_surrogate(named)
        return content.removeprefix("\ufeff")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("not_text", f"{named} is not UTF-8 text", hint="save it as UTF-8") from None


def first_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that an earlier one equals, or None.

    It takes linear time: a request of 1 MiB can have a hundred thousand names.
    """
    earlier: set[str] = set()
    for name in names:
        if name in earlier:
            return name
        earlier.add(name)
    return None
