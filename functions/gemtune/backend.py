"""Ports of the backend that the settings name, and facts of the deployment.

Each object is created, and its module imported, when it is first used, to keep cold starts short.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gemtune.embedded.database import Database
    from gemtune.errors import Problem
    from gemtune.jobs.status import Step
    from gemtune.machines.cap_policy import CapPolicy
    from gemtune.machines.cost import Prices
    from gemtune.ports import (
        Buckets,
        Bus,
        Callers,
        CheckRunner,
        Clock,
        JobStore,
        Launcher,
        Logs,
        Secrets,
        SharedDocuments,
    )
    from gemtune.settings import Settings


class Backend:
    """The ports of one backend, and what settings say about the deployment."""

    def __init__(self, settings: Settings):
        self.settings = settings

    @cached_property
    def clock(self) -> Clock:
        from gemtune.clock import SystemClock

        return SystemClock()

    @cached_property
    def database(self) -> Database:
        """Return the SQLite database; only the embedded backend has one."""
        from gemtune.embedded.database import Database

        return Database(self.settings.home / "gemtune.db")

    @cached_property
    def store(self) -> JobStore:
        """Return the job store of the backend."""
        if self.settings.on_gcp:
            from gemtune.gcp.firestore_store import FirestoreStore

            return FirestoreStore(self.settings.project_id, clock=self.clock)
        from gemtune.embedded.sqlite_store import SqliteStore

        return SqliteStore(self.database, clock=self.clock)

    @cached_property
    def shared(self) -> SharedDocuments:
        """Return the documents that several jobs share."""
        if self.settings.on_gcp:
            from gemtune.gcp.firestore_shared import FirestoreSharedDocuments

            return FirestoreSharedDocuments(self.settings.project_id)
        from gemtune.embedded.sqlite_shared import SqliteSharedDocuments

        return SqliteSharedDocuments(self.database)

    @cached_property
    def bus(self) -> Bus:
        """Return the message bus of the backend."""
        if self.settings.on_gcp:
            from gemtune.gcp.pubsub_bus import PubSubBus

            return PubSubBus(self.settings.project_id, self.settings.region)

        from gemtune.embedded.sqlite_bus import SqliteBus

        return SqliteBus(self.database, clock=self.clock)

    @cached_property
    def buckets(self) -> Buckets:
        """Return the four buckets of the backend."""
        if self.settings.on_gcp:
            from gemtune.gcp.storage_objects import storage_buckets

            return storage_buckets(self.settings)
        from gemtune.embedded.folder_objects import folder_buckets

        return folder_buckets(self.settings)

    @cached_property
    def secrets(self) -> Secrets:
        """Return the secret store of the backend."""
        if self.settings.on_gcp:
            from gemtune.gcp.secret_manager import SecretManagerSecrets

            return SecretManagerSecrets(self.settings.project_id, endpoint=self.settings.secret_manager_endpoint)
        from gemtune.embedded.file_secrets import FileSecrets

        return FileSecrets(self.settings.home / "secrets", clock=self.clock)

    @cached_property
    def launcher(self) -> Launcher:
        """Return the launcher of workflow executions of the backend."""
        if self.settings.on_gcp:
            from gemtune.gcp.workflows_launcher import WorkflowsLauncher

            return WorkflowsLauncher(self.settings)
        from gemtune.embedded.sqlite_launcher import SqliteLauncher

        return SqliteLauncher(self.database, clock=self.clock)

    @cached_property
    def logs(self) -> Logs:
        """Return the output of steps of the backend."""
        if self.settings.on_gcp:
            from gemtune.gcp.cloud_logs import CloudLogs

            return CloudLogs(self.settings.project_id)
        from gemtune.embedded.file_logs import FileLogs

        return FileLogs(self.buckets.export)

    @cached_property
    def check_runner(self) -> CheckRunner:
        """Return the runner of checks of the backend."""
        if self.settings.on_gcp:
            from gemtune.gcp.cloud_run import CloudRunChecks

            return CloudRunChecks(self.settings)
        from gemtune.embedded.child_checks import ChildChecks

        return ChildChecks(self.settings)

    @cached_property
    def callers(self) -> Callers:
        """Return the identification of HTTP callers of the backend."""
        if self.settings.on_gcp:
            from gemtune.gcp.iam_callers import IamCallers

            return IamCallers(self.settings.gateway)
        from gemtune.embedded.localhost_callers import LocalhostCallers

        return LocalhostCallers(self.settings.service_owner)

    # Facts of the deployment, from the settings.

    @cached_property
    def prices(self) -> Prices:
        """Return the prices of the deployment's machines."""
        from gemtune.machines.cost import DEFAULT_REGION, Prices

        region = self.settings.region if self.settings.on_gcp else DEFAULT_REGION
        return Prices(self.settings.usd_per_hour, region)

    @cached_property
    def cap_policy(self) -> CapPolicy:
        """Return the caps that jobs of this deployment have, and may have."""
        from gemtune.machines.cap_policy import CapPolicy

        settings = self.settings
        return CapPolicy(
            settings.default_max_cost_usd,
            settings.default_max_hours,
            settings.max_cost_usd,
            settings.max_hours,
            settings.owner_usd_per_month,
        )

    @property
    def timeouts(self) -> Mapping[Step, int]:
        """Return the time limit of each step in seconds."""
        from gemtune.jobs.status import Step

        return {
            Step.PREPARE: self.settings.prepare_timeout_seconds,
            Step.TRAIN: self.settings.train_timeout_seconds,
            Step.EXPORT: self.settings.export_timeout_seconds,
        }

    def gguf_problem(self) -> Problem | None:
        """Return why the export step cannot write GGUF, or None if it can.

        On a workstation it uses the local build of llama.cpp; on Google Cloud, the one in the trainer image.
        """
        from gemtune import llama_cpp

        on_gcp = self.settings.on_gcp
        has_tools = not self.settings.without_gguf if on_gcp else llama_cpp.is_built(self.settings.llama_cpp)
        return None if has_tools else llama_cpp.tools_missing(on_gcp=on_gcp)
