"""Error messages for files and folders that are missing, read-only or full."""

from __future__ import annotations

import errno
from pathlib import Path

from gemtune.errors import CannotStore, GemtuneError
from gemtune.settings import Settings

# Errors about a file that the operating system may report without its name.
WITHOUT_FILE_NAME = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class UnusableFile(GemtuneError):
    """Raised if a file or folder cannot be created, read or written.

    The hint names GEMTUNE_HOME if the path is below it or not known.
    """

    code = "unusable_file"

    def __init__(self, path: Path | None, reason: str, home: Path):
        hint = None
        if path is None or path.is_relative_to(home):
            hint = f"GEMTUNE_HOME is {home}: free disk space, or set it to a folder that you can write to"
        super().__init__(reason if path is None else f"{path}: {reason}", hint=hint)


def as_unusable_file(error: OSError | CannotStore) -> UnusableFile | None:
    """Convert an error about a file; return None for other errors."""
    home = Settings.from_environment().home
    if isinstance(error, CannotStore):
        return UnusableFile(Path(error.place), error.reason, home)
    if not isinstance(error.filename, str | Path) and error.errno not in WITHOUT_FILE_NAME:
        return None
    path = Path(error.filename).absolute() if isinstance(error.filename, str | Path) else None
    return UnusableFile(path, error.strerror or type(error).__name__, home)
