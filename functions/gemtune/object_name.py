"""Rules for object names, the same in a folder as in a Cloud Storage bucket."""

from __future__ import annotations

from gemtune.errors import UnsafeName

# Folder of temporary files in the embedded backend. No object name may begin with it, on either backend.
UNFINISHED = ".unfinished"
# Limits in bytes: Cloud Storage's for a whole name, a file system's for each part.
MAX_NAME_BYTES, MAX_PART_BYTES = 1024, 255


def split_name(name: str) -> list[str]:
    """Return an object name's parts between the slashes.

    Raises UnsafeName if the name is invalid or its path could leave the bucket's folder.
    """
    parts = name.split("/")
    readable = name.isprintable() and len(name.encode(errors="replace")) <= MAX_NAME_BYTES
    if not readable or any(part in ("", ".", "..") or len(part.encode()) > MAX_PART_BYTES for part in parts):
        raise UnsafeName(f"{name[:200]!r} is not a valid object name")
    if parts[0] == UNFINISHED:
        raise UnsafeName(f"{UNFINISHED!r} is reserved for unfinished writes")
    return parts


def is_safe(name: str) -> bool:
    """Return whether an object name is valid for `split_name`."""
    try:
        split_name(name)
    except UnsafeName:
        return False
    return True
