"""What a name of an object may be, in a folder as in a bucket."""

from __future__ import annotations

from gemtune.errors import UnsafeName

# Unfinished writes of the folder backend wait here; no object name can begin so, on either backend.
UNFINISHED = ".unfinished"
# Cloud Storage's own limit on a name; a file system's is 255 bytes a part.
MAX_NAME_BYTES, MAX_PART_BYTES = 1024, 255


def parts(name: str) -> list[str]:
    """The parts between the slashes. Raises UnsafeName for a name that is none, or could leave its bucket."""
    found = name.split("/")
    readable = name.isprintable() and len(name.encode(errors="replace")) <= MAX_NAME_BYTES
    if not readable or any(part in ("", ".", "..") or len(part.encode()) > MAX_PART_BYTES for part in found):
        raise UnsafeName(f"{name[:200]!r} is no object name")
    if found[0] == UNFINISHED:
        raise UnsafeName(f"{UNFINISHED!r} is for unfinished writes")
    return found


def is_safe(name: str) -> bool:
    """Whether `parts` takes it."""
    try:
        parts(name)
    except UnsafeName:
        return False
    return True
