"""The only wiring: settings -> ports -> services. Everything is made when it is first asked for, and imported then."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from gemtune.settings import Settings

if TYPE_CHECKING:
    from gemtune.embedded.database import Database
    from gemtune.embedded.sqlite_bus import SqliteBus
    from gemtune.ports import Buckets, Clock, JobStore, Launcher, Secrets
    from gemtune.services.advance import Advance


class Services:
    """The ports of one backend and the use cases on top of them."""

    def __init__(self, settings: Settings):
        self.settings = settings

    @cached_property
    def clock(self) -> Clock:
        from gemtune.clock import SystemClock

        return SystemClock()

    @cached_property
    def _database(self) -> Database:
        from gemtune.embedded.database import Database

        return Database(self.settings.home / "gemtune.db")

    @cached_property
    def store(self) -> JobStore:
        from gemtune.embedded.sqlite_store import SqliteStore

        return SqliteStore(self._database, clock=self.clock)

    @cached_property
    def bus(self) -> SqliteBus:
        from gemtune.embedded.sqlite_bus import SqliteBus

        return SqliteBus(self._database, clock=self.clock)

    @cached_property
    def buckets(self) -> Buckets:
        from gemtune.embedded.folder_objects import folder_buckets

        return folder_buckets(self.settings)

    @cached_property
    def secrets(self) -> Secrets:
        from gemtune.embedded.file_secrets import FileSecrets

        return FileSecrets(self.settings.home / "secrets", clock=self.clock)

    @cached_property
    def advance(self) -> Advance:
        from gemtune.services.advance import Advance

        return Advance(self.store, self.secrets, self.clock)


@lru_cache(maxsize=1)
def services() -> Services:
    """The services of this process, by its environment."""
    return Services(Settings.from_environment())
