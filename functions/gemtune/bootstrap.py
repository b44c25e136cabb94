"""The only wiring: settings -> ports -> services. Everything is made when it is first asked for, and imported then."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from gemtune.errors import BadSetting
from gemtune.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gemtune.embedded.database import Database
    from gemtune.embedded.sqlite_bus import SqliteBus
    from gemtune.job import Step
    from gemtune.ports import Buckets, Clock, JobStore, Launcher, Secrets
    from gemtune.services.advance import Advance
    from gemtune.services.cancel import Cancel
    from gemtune.services.control import Control
    from gemtune.services.delete import Delete
    from gemtune.services.dispatch import Dispatch
    from gemtune.services.fan_out import FanOut
    from gemtune.services.ingest import Ingest
    from gemtune.services.submit import Submit
    from gemtune.services.sweep import Sweep


class Services:
    """The ports of one backend and the use cases on top of them."""

    def __init__(self, settings: Settings):
        if settings.backend != "embedded":
            raise BadSetting("GEMTUNE_BACKEND=gcp is not available yet", hint="use embedded")
        self.settings = settings

    # Ports.

    @cached_property
    def clock(self) -> Clock:
        from gemtune.clock import SystemClock

        return SystemClock()

    @cached_property
    def database(self) -> Database:
        from gemtune.embedded.database import Database

        return Database(self.settings.home / "gemtune.db")

    @cached_property
    def store(self) -> JobStore:
        from gemtune.embedded.sqlite_store import SqliteStore

        return SqliteStore(self.database, clock=self.clock)

    @cached_property
    def bus(self) -> SqliteBus:
        from gemtune.embedded.sqlite_bus import SqliteBus

        return SqliteBus(self.database, clock=self.clock)

    @cached_property
    def buckets(self) -> Buckets:
        from gemtune.embedded.folder_objects import folder_buckets

        return folder_buckets(self.settings)

    @cached_property
    def secrets(self) -> Secrets:
        from gemtune.embedded.file_secrets import FileSecrets

        return FileSecrets(self.settings.home / "secrets", clock=self.clock)

    @cached_property
    def launcher(self) -> Launcher:
        from gemtune.embedded.executions import EmbeddedLauncher

        return EmbeddedLauncher(self.database, clock=self.clock)

    # Use cases.

    @cached_property
    def submit(self) -> Submit:
        from gemtune.services.submit import Submit

        return Submit(self.store, self.bus, self.buckets, self.secrets, self.clock, local_folders=True)

    @cached_property
    def dispatch(self) -> Dispatch:
        from gemtune.services.dispatch import Dispatch

        return Dispatch(self.store, self.bus, self.launcher, self.submit, self.clock)

    @cached_property
    def control(self) -> Control:
        from gemtune.services.control import Control

        return Control(self.store, self.clock, self._timeouts)

    @cached_property
    def advance(self) -> Advance:
        from gemtune.services.advance import Advance

        service_token = self.settings.service_hf_token
        service_secrets = {} if service_token is None else {"hf_token": service_token}
        return Advance(self.store, self.secrets, self.clock, service_secrets)

    @cached_property
    def cancel(self) -> Cancel:
        from gemtune.services.cancel import Cancel

        return Cancel(self.store, self.launcher, self.clock)

    @cached_property
    def delete(self) -> Delete:
        from gemtune.services.delete import Delete

        return Delete(self.store, self.buckets, self.secrets, self.clock)

    @cached_property
    def ingest(self) -> Ingest:
        from gemtune.services.ingest import Ingest

        return Ingest(self.buckets, self.submit)

    @cached_property
    def fan_out(self) -> FanOut:
        from gemtune.services.fan_out import FanOut

        return FanOut(self.store, self.bus, self.secrets)

    @cached_property
    def sweep(self) -> Sweep:
        from gemtune.services.sweep import Sweep

        return Sweep(
            self.store,
            self.buckets,
            self.secrets,
            self.launcher,
            self.submit,
            self.dispatch,
            self.fan_out,
            self.clock,
            self._timeouts,
        )

    @property
    def _timeouts(self) -> Mapping[Step, int]:
        from gemtune.job import Step

        return {
            Step.PREPARE: self.settings.prepare_timeout_seconds,
            Step.TRAIN: self.settings.train_timeout_seconds,
            Step.EXPORT: self.settings.export_timeout_seconds,
        }


@lru_cache(maxsize=1)
def services() -> Services:
    """The services of this process, by its environment."""
    return Services(Settings.from_environment())
