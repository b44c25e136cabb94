"""Secrets as private files, each with its expiry time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gemtune.embedded.disk import make_folder, writing
from gemtune.errors import SecretNotFound
from gemtune.ports import Clock, SecretStat
from gemtune.secret_name import NAME, missing_hint, validate_name


class FileSecrets:
    """`ports.Secrets` in a private folder, one JSON file per secret.

    The folder has the mode 0700, each file 0600.
    """

    def __init__(self, folder: Path, *, clock: Clock):
        make_folder(folder)
        with writing(folder):
            folder.chmod(0o700)
        self._folder = folder
        self._clock = clock

    def create(self, name: str, value: str, *, ttl: timedelta | None) -> None:
        """Write a value that expires after `ttl`, or never."""
        self._write(name, {"value": value, "created_at": self._clock.now().isoformat(), "ends_at": self._end(ttl)})

    def create_once(self, name: str, value: str) -> str:
        """Link a complete file to its name; the first writer wins."""
        with suppress(FileExistsError):
            self._write(name, {"value": value, "created_at": self._clock.now().isoformat(), "ends_at": None}, new=True)
        return self.read(name)

    def read(self, name: str) -> str:
        """Return a value. Raises SecretNotFound."""
        return str(self._read(name)["value"])

    def renew(self, name: str, *, ttl: timedelta) -> None:
        """Make a secret expire `ttl` from now. Raises SecretNotFound."""
        self._write(name, self._read(name) | {"ends_at": self._end(ttl)})

    def delete(self, name: str) -> None:
        """Delete a secret's file if it exists."""
        with writing(self._folder):
            self._path(name).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[SecretStat]:
        """Yield the secrets whose names begin with `prefix`, by name."""
        for path in sorted(self._folder.glob("*")):
            if path.name.startswith(prefix) and NAME.fullmatch(path.name):
                with suppress(FileNotFoundError):
                    entry = json.loads(path.read_text())
                    yield SecretStat(path.name, datetime.fromisoformat(entry["created_at"]))

    def _end(self, ttl: timedelta | None) -> str | None:
        """Return the expiry time in ISO 8601, or None."""
        return None if ttl is None else (self._clock.now() + ttl).isoformat()

    def _read(self, name: str) -> dict[str, str | None]:
        """Return a secret's file content. Raises SecretNotFound."""
        try:
            entry: dict[str, str | None] = json.loads(self._path(name).read_text())
        except FileNotFoundError:
            raise SecretNotFound(f"there is no secret {name!r}", hint=missing_hint(name)) from None
        ends_at = entry["ends_at"]
        if ends_at is not None and self._clock.now() >= datetime.fromisoformat(ends_at).astimezone(UTC):
            raise SecretNotFound(f"secret {name!r} has expired", hint="submit the job again with its token")
        return entry

    def _write(self, name: str, entry: dict[str, str | None], *, new: bool = False) -> None:
        """Write a secret's file atomically.

        Raises CannotStore, and FileExistsError if `new` is set and the file exists.
        """
        path = self._path(name)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        with writing(self._folder):
            try:
                handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "w") as file:
                    json.dump(entry, file)
                    file.flush()
                    os.fsync(file.fileno())
                if new:
                    os.link(unfinished, path)  # atomic: fails if the file exists
                else:
                    unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / validate_name(name)
