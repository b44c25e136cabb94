"""Wiring of the application: settings → ports → use cases.

Each object is created, and its module imported, when it is first used, to keep cold starts short.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from gemtune.backend import Backend
from gemtune.settings import Settings

if TYPE_CHECKING:
    from gemtune.services.acceptance.create_job import CreateJob
    from gemtune.services.acceptance.export_again import ExportAgain
    from gemtune.services.acceptance.submit import Submit
    from gemtune.services.advance import Advance
    from gemtune.services.budgets.ledger import OwnerBudgets
    from gemtune.services.cancel import Cancel
    from gemtune.services.control import Control
    from gemtune.services.datasets.catalogue import DatasetCatalogue
    from gemtune.services.datasets.check import CheckDataset
    from gemtune.services.datasets.rows import ReadRows
    from gemtune.services.datasets.upload import UploadDataset
    from gemtune.services.delete import Delete
    from gemtune.services.dispatch import Dispatch
    from gemtune.services.fan_out import FanOut
    from gemtune.services.ingest import Ingest
    from gemtune.services.logs.read import ReadLogs
    from gemtune.services.machine_slots import MachineSlots
    from gemtune.services.notify import Notify
    from gemtune.services.pause import Pause, Resume
    from gemtune.services.planning.base_models import BaseModels
    from gemtune.services.planning.planner import Planner
    from gemtune.services.stop_executions import StopExecutions
    from gemtune.services.sweep import Sweep


class Services(Backend):
    """The ports of one backend and the use cases on top of them."""

    @cached_property
    def submit(self) -> Submit:
        """Return the use case that validates and accepts requests."""
        from gemtune.families import timm
        from gemtune.request.facts import Deployment
        from gemtune.services.acceptance.base_job import FindBaseJob
        from gemtune.services.acceptance.read_facts import ReadFacts
        from gemtune.services.acceptance.submit import Submit

        deployment = Deployment(
            machines=self.settings.machines,
            local_folders=not self.settings.on_gcp,
            webhooks_to_loopback=self.settings.webhooks_to_loopback,
            has_hf_token=self.settings.service_hf_token is not None,
            has_unsloth=self.settings.unsloth_python is not None,
            may_have_gpu=self.settings.may_have_gpu,
            has_timm=self.settings.on_gcp or timm.is_installed(),  # the images have it
            wandb_needs_key=self.settings.service_wandb_key is None and not self.settings.wandb_offline,
            caps=self.cap_policy,
            prices=self.prices,
        )
        read_facts = ReadFacts(deployment, self.buckets, self.secrets, self.gguf_problem)
        find_base_job = FindBaseJob(self.store, self.buckets)
        return Submit(
            self.store,
            self.bus,
            self.buckets,
            self._create_job,
            read_facts,
            find_base_job,
            self.planner.warnings,
            self.budgets.check,
        )

    @cached_property
    def export_again(self) -> ExportAgain:
        """Return the use case that exports a trained job in another form."""
        from gemtune.services.acceptance.export_again import ExportAgain

        return ExportAgain(self.store, self.buckets, self._create_job, self.submit)

    @cached_property
    def dispatch(self) -> Dispatch:
        """Return the use case that launches jobs from messages."""
        from gemtune.services.dispatch import Dispatch

        return Dispatch(self.store, self.bus, self.launcher, self.submit, self.clock)

    @cached_property
    def control(self) -> Control:
        """Return the use case that answers the workflow's control calls."""
        from gemtune.services.control import FOR_SLOTS, FOR_SLOTS_ON_WORKSTATION, Control

        intervals = FOR_SLOTS if self.settings.on_gcp else FOR_SLOTS_ON_WORKSTATION
        return Control(
            self.store,
            self.slots,
            self.launcher,
            self.clock,
            self.timeouts,
            self.settings.machines,
            self.planner,
            self.prices,
            self.budgets,
            intervals,
        )

    @cached_property
    def planner(self) -> Planner:
        """Return the use case that plans jobs."""
        from gemtune.services.planning.measured_speeds import MeasuredSpeeds
        from gemtune.services.planning.planner import Planner, Workstation

        speeds = MeasuredSpeeds(self.shared)
        return Planner(speeds, self.buckets, self.settings.machines, self.timeouts, Workstation.here(), self.prices)

    @cached_property
    def base_models(self) -> BaseModels:
        """Return the use case that lists base models."""
        from gemtune.services.planning.base_models import BaseModels
        from gemtune.services.planning.planner import Workstation
        from gemtune.settings import cache_folder

        folders = () if self.settings.on_gcp else (cache_folder(), self.settings.hub_cache)
        return BaseModels(self.buckets, self.settings.machines, Workstation.here(), folders)

    @cached_property
    def budgets(self) -> OwnerBudgets:
        """Return the use case that keeps the accounts and budgets of owners."""
        from gemtune.services.budgets.account import Budget
        from gemtune.services.budgets.ledger import OwnerBudgets

        budget = Budget(self.settings.owner_usd_per_month, self.settings.owner_hours_per_month)
        return OwnerBudgets(self.shared, self.clock, self.prices, budget)

    @cached_property
    def slots(self) -> MachineSlots:
        """Return the use case that gives machines to steps."""
        from gemtune.services.machine_slots import MachineSlots

        return MachineSlots(self.shared, self.store, self.clock, self.settings.capacities)

    @cached_property
    def advance(self) -> Advance:
        """Return the use case through which steps record their progress."""
        from gemtune.services.advance import Advance

        names = {"hf_token": self.settings.service_hf_token, "wandb_api_key": self.settings.service_wandb_key}
        service_secrets = {role: name for role, name in names.items() if name is not None}
        return Advance(self.store, self.secrets, self.clock, service_secrets, self.planner, self.prices, self.budgets)

    @cached_property
    def cancel(self) -> Cancel:
        """Return the use case that cancels a job."""
        from gemtune.services.cancel import Cancel

        return Cancel(self.store, self._stop_executions, self.clock)

    @cached_property
    def pause(self) -> Pause:
        """Return the use case that pauses a job."""
        from gemtune.services.pause import Pause

        return Pause(self.store, self._stop_executions, self.clock)

    @cached_property
    def resume(self) -> Resume:
        """Return the use case that resumes a paused job."""
        from gemtune.services.pause import Resume

        return Resume(self.store, self.submit, self.clock, self.cap_policy, self.prices, self.budgets)

    @cached_property
    def delete(self) -> Delete:
        """Return the use case that deletes a job."""
        from gemtune.services.delete import Delete

        return Delete(self.store, self.buckets, self.secrets, self.clock, self.budgets)

    @cached_property
    def upload_dataset(self) -> UploadDataset:
        """Return the use case that takes uploads of datasets."""
        from gemtune.services.datasets.upload import UploadDataset

        return UploadDataset(self.buckets.data, self.clock)

    @cached_property
    def datasets(self) -> DatasetCatalogue:
        """Return the use case that lists, shows and deletes datasets."""
        from gemtune.services.datasets.catalogue import DatasetCatalogue

        return DatasetCatalogue(self.buckets.data, self.store, self.upload_dataset)

    @cached_property
    def read_logs(self) -> ReadLogs:
        """Return the use case that reads the output of a job's steps."""
        from gemtune.services.logs.read import ReadLogs

        return ReadLogs(self.store, self.logs)

    @cached_property
    def check_dataset(self) -> CheckDataset:
        """Return the use case that has datasets checked."""
        from gemtune.services.datasets.check import CheckDataset

        return CheckDataset(
            self.buckets,
            self.datasets,
            self.submit.read_facts,
            self.check_runner,
            self.clock,
            self.settings.service_hf_token,
        )

    @cached_property
    def read_rows(self) -> ReadRows:
        """Return the use case that reads rows of datasets."""
        from gemtune.services.datasets.rows import ReadRows

        return ReadRows(self.buckets, self.datasets)

    @cached_property
    def ingest(self) -> Ingest:
        """Return the use case that submits uploaded job files."""
        from gemtune.services.ingest import Ingest

        return Ingest(self.buckets, self.submit)

    @cached_property
    def fan_out(self) -> FanOut:
        """Return the use case that publishes the events of a job."""
        from gemtune.services.fan_out import FanOut

        return FanOut(self.store, self.bus, self.secrets, self.budgets)

    @cached_property
    def notify(self) -> Notify:
        """Return the use case that sends a webhook."""
        from functools import partial

        from gemtune.services.notify import Notify
        from gemtune.webhooks.pinned_http import post

        to_loopback = self.settings.webhooks_to_loopback
        return Notify(self.secrets, self.clock, partial(post, to_loopback=to_loopback), to_loopback)

    @cached_property
    def sweep(self) -> Sweep:
        """Return the use case that repairs and cleans up periodically."""
        from gemtune.services.cleanup.leftovers import Leftovers
        from gemtune.services.cleanup.positions import Positions
        from gemtune.services.sweep import Sweep

        positions = Positions(self.shared)
        return Sweep(
            self.store,
            self.secrets,
            self.launcher,
            self.submit,
            self.dispatch,
            self.fan_out,
            self.slots,
            self._stop_executions,
            self.clock,
            self.timeouts,
            self.budgets,
            Leftovers(self.store, self.buckets, self.secrets, positions, self.clock),
            positions,
        )

    @cached_property
    def _stop_executions(self) -> StopExecutions:
        from gemtune.services.stop_executions import StopExecutions

        return StopExecutions(self.launcher, self.slots)

    @cached_property
    def _create_job(self) -> CreateJob:
        from gemtune.services.acceptance.create_job import CreateJob

        return CreateJob(self.store, self.buckets, self.secrets, self.clock)


@lru_cache(maxsize=1)
def services() -> Services:
    """Return this process's services, configured from environment variables."""
    settings = Settings.from_environment()
    if settings.on_gcp:
        from gemtune.log_lines import log_to_stdout

        log_to_stdout()
    return Services(settings)
