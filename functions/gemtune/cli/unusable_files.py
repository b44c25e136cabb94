"""Files and folders that cannot be used, as a sentence: no such folder, read-only, full."""

from __future__ import annotations

import errno
from pathlib import Path

from gemtune.errors import CannotStore, GemtuneError
from gemtune.settings import Settings

WITHOUT_A_NAME = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class UnusableFile(GemtuneError):
    """A file or folder that this machine's service needs cannot be made, read or written."""

    code = "unusable_file"

    def __init__(self, path: Path | None, reason: str, home: Path):
        hint = None
        if path is None or path.is_relative_to(home):
            hint = f"GEMTUNE_HOME is {home}: make room there, or set it to a folder that you can write to"
        super().__init__(reason if path is None else f"{path}: {reason}", hint=hint)


def explained(error: OSError | CannotStore) -> UnusableFile | None:
    """Return what an error says of a file; None when it is about something else."""
    home = Settings.from_environment().home
    if isinstance(error, CannotStore):
        return UnusableFile(Path(error.place), error.reason, home)
    if not isinstance(error.filename, str | Path) and error.errno not in WITHOUT_A_NAME:
        return None
    path = Path(error.filename).absolute() if isinstance(error.filename, str | Path) else None
    return UnusableFile(path, error.strerror or type(error).__name__, home)
