"""Secrets as private files, each with its expiry time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from gemtune.embedded.disk import make_folder, writing
from gemtune.errors import SecretNotFound
from gemtune.ports import Clock, SecretStat
from gemtune.secret_name import NAME, missing_hint, validate_name


class _Secret(BaseModel):
    """Content of a secret's file. ends_at: None if it does not expire."""

    model_config = ConfigDict(frozen=True, extra="allow")

    value: str
    created_at: AwareDatetime
    ends_at: AwareDatetime | None


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
        return self._read(name).value

    def renew(self, name: str, *, ttl: timedelta) -> None:
        """Make a secret expire `ttl` from now. Raises SecretNotFound."""
        self._write(name, self._read(name).model_dump(mode="json") | {"ends_at": self._end(ttl)})

    def delete(self, name: str) -> None:
        """Delete a secret's file if it exists."""
        with writing(self._folder):
            self._path(name).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[SecretStat]:
        """Yield the secrets whose names begin with `prefix`, by name."""
        for path in sorted(self._folder.glob("*")):
            if path.name.startswith(prefix) and NAME.fullmatch(path.name):
                with suppress(FileNotFoundError):
                    yield SecretStat(path.name, _created_at(path))

    def _end(self, ttl: timedelta | None) -> str | None:
        """Return the expiry time in ISO 8601, or None."""
        return None if ttl is None else (self._clock.now() + ttl).isoformat()

    def _read(self, name: str) -> _Secret:
        """Return a secret's file content. Raises SecretNotFound."""
        try:
            entry = _Secret.model_validate_json(self._path(name).read_bytes())
        except FileNotFoundError:
            raise SecretNotFound(f"there is no secret {name!r}", hint=missing_hint(name)) from None
        except ValidationError:
            raise SecretNotFound(f"the file of secret {name!r} is damaged", hint=missing_hint(name)) from None
        if entry.ends_at is not None and self._clock.now() >= entry.ends_at:
            raise SecretNotFound(f"secret {name!r} has expired", hint="submit the job again with its token")
        return entry

    def _write(self, name: str, entry: Mapping[str, object], *, new: bool = False) -> None:
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


def _created_at(path: Path) -> datetime:
    """Return when a secret was created: for a damaged file, by its own time.

    It must not keep the sweep from the other secrets. Raises FileNotFoundError.
    """
    try:
        return _Secret.model_validate_json(path.read_bytes()).created_at
    except ValidationError:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
