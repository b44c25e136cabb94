"""Secrets as files of mode 0600 in a folder of mode 0700, each with the time it ends."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gemtune.errors import SecretNotFound, UnsafeName
from gemtune.ports import Clock, SecretStat

# Secret Manager's own rule for a name.
NAME = re.compile(r"^[A-Za-z0-9_-]{1,255}$")


class FileSecrets:
    def __init__(self, folder: Path, *, clock: Clock):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        self._folder = folder
        self._clock = clock

    def create(self, name: str, value: str, *, ttl: timedelta | None) -> None:
        self._write(name, {"value": value, "created_at": self._clock.now().isoformat(), "ends_at": self._end(ttl)})

    def read(self, name: str) -> str:
        return str(self._read(name)["value"])

    def renew(self, name: str, *, ttl: timedelta) -> None:
        self._write(name, self._read(name) | {"ends_at": self._end(ttl)})

    def delete(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[SecretStat]:
        for path in sorted(self._folder.glob("*")):
            if path.name.startswith(prefix) and NAME.fullmatch(path.name):
                with suppress(FileNotFoundError):
                    kept = json.loads(path.read_text())
                    yield SecretStat(path.name, datetime.fromisoformat(kept["created_at"]))

    def _end(self, ttl: timedelta | None) -> str | None:
        return None if ttl is None else (self._clock.now() + ttl).isoformat()

    def _read(self, name: str) -> dict[str, str | None]:
        try:
            kept: dict[str, str | None] = json.loads(self._path(name).read_text())
        except FileNotFoundError:
            raise SecretNotFound(
                f"there is no secret {name!r}", hint=f"store it with `gemtune secret`: {name}"
            ) from None
        ends_at = kept["ends_at"]
        if ends_at is not None and self._clock.now() >= datetime.fromisoformat(ends_at).astimezone(UTC):
            raise SecretNotFound(f"the time of secret {name!r} is over", hint="submit the job again with its token")
        return kept

    def _write(self, name: str, kept: dict[str, str | None]) -> None:
        path = self._path(name)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(kept, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise UnsafeName("a secret's name has letters, digits, '_' and '-' only")
        return self._folder / name
