"""Checks of datasets: begun, looked at, and deleted after a while."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from pydantic import ValidationError

from gemtune.checks.errors import CheckNotFound
from gemtune.checks.record import RECORDS, CheckRecord, CheckSummary, record_name, records_folder, results_folder
from gemtune.checks.report import CheckError, CheckReport
from gemtune.checks.request import CheckRequest
from gemtune.checks.task import REPORT, ROWS_LEFT_OUT, CheckTask
from gemtune.errors import ObjectNotFound, Problem, UnsafeName
from gemtune.jobs.secret_names import REFERENCE
from gemtune.ports import Buckets, CheckRunner, Clock, Link
from gemtune.request import rules
from gemtune.request.facts import Facts
from gemtune.request.parsing import Reading
from gemtune.request.spec import TrainRequest
from gemtune.services.datasets.catalogue import DatasetCatalogue

CRASHED = CheckError(
    code="check_crashed",
    message="the check ended without a report",
    hint="check again; if it ends so again, the log of the service says why",
)


@dataclass(frozen=True, slots=True)
class CheckState:
    """State of a check.

    status: `running`, `done` with a report, or `failed` with an error. rows_left_out: link to the file that names
    every row that is not used, of a check that read the dataset.
    """

    record: CheckSummary
    status: Literal["running", "done", "failed"]
    report: CheckReport | None = None
    error: CheckError | None = None
    rows_left_out: Link | None = None


@dataclass(frozen=True, slots=True)
class CheckDataset:
    """Service that has datasets checked by the trainer.

    read_facts: returns the facts that the rules for a request need. service_hf_token: name of the secret with the
    service's own token for the Hub.
    """

    buckets: Buckets
    catalogue: DatasetCatalogue
    read_facts: Callable[[TrainRequest], Facts]
    runner: CheckRunner
    clock: Clock
    service_hf_token: str | None

    def begin(self, dataset_id: str, reading: Reading[CheckRequest]) -> CheckState:
        """Begin a check.

        Raises DatasetNotFound, DatasetIncomplete, RequestRefused, TooManyChecks.
        """
        self.catalogue.describe_ready(dataset_id)
        request = self._checked(dataset_id, reading)
        token = request.hf_token
        record = CheckRecord(
            check_id=f"check_{uuid.uuid4().hex[:12]}",
            dataset_id=dataset_id,
            created_at=self.clock.now(),
            task=CheckTask(spec=request.spec(), samples=reading.require_readable().samples, store_rows=True),
            hf_token=self.service_hf_token if token is None else token.removeprefix(REFERENCE),
        )
        name = record_name(dataset_id, record.check_id)
        self.buckets.data.write(name, record.model_dump_json().encode())
        try:
            self.runner.start(dataset_id, record.check_id)
        except Exception:
            self.buckets.data.delete(name)
            raise
        return CheckState(record, "running")

    def read(self, dataset_id: str, check_id: str) -> CheckState:
        """Return the state of a check.

        Raises CheckNotFound, also for one of another version or a damaged one; NoSignedLinks.
        """
        try:
            stored = self.buckets.data.read(record_name(dataset_id, check_id))
        except (ObjectNotFound, UnsafeName):
            raise CheckNotFound(dataset_id, check_id) from None
        with _reading(dataset_id, check_id):
            record = CheckSummary.model_validate_json(stored)
        # The report is read again after the process has ended: it may have written it in the meantime.
        report = self._report(record)
        if report is None and self.runner.is_running(dataset_id, check_id):
            return CheckState(record, "running")
        report = report or self._report(record)
        if report is None:
            return CheckState(record, "failed", error=CRASHED)
        name = results_folder(dataset_id, check_id) + ROWS_LEFT_OUT
        link = None if report.rows_left_out is None else self.buckets.export.link(name)
        return CheckState(record, "done", report, rows_left_out=link)

    def delete_all(self, dataset_id: str) -> None:
        """Delete all checks of a dataset."""
        self.buckets.data.delete_prefix(records_folder(dataset_id))
        self.buckets.export.delete_prefix(results_folder(dataset_id))

    def _checked(self, dataset_id: str, reading: Reading[CheckRequest]) -> TrainRequest:
        """Return the request of the job that would train.

        Raises RequestRefused.
        """
        request = reading.require_readable().as_train_request(dataset_id)
        checked = rules.check(Reading(request, reading.problems), self.read_facts(request), about=CheckRequest)
        return Reading(checked.request, tuple(map(_as_sent, checked.problems))).require_valid()

    def _report(self, record: CheckSummary) -> CheckReport | None:
        try:
            stored = self.buckets.export.read(results_folder(record.dataset_id, record.check_id) + REPORT)
        except ObjectNotFound:
            return None
        with _reading(record.dataset_id, record.check_id):
            return CheckReport.model_validate_json(stored)


@contextmanager
def _reading(dataset_id: str, check_id: str) -> Iterator[None]:
    """Raise CheckNotFound where a record or a report cannot be decoded."""
    try:
        yield
    except ValidationError:
        raise CheckNotFound(dataset_id, check_id) from None


def old_checks(buckets: Buckets, before: datetime) -> Iterator[str]:
    """Yield the names of the records of checks that began before a time."""
    for stat in buckets.data.list(RECORDS):
        if stat.name.endswith(".json") and "/" in stat.name.removeprefix(RECORDS) and stat.updated_at < before:
            yield stat.name


def remove_check(buckets: Buckets, name: str) -> None:
    """Remove a check with its results.

    name: of its record.
    """
    dataset_id, _, check = name.removeprefix(RECORDS).partition("/")
    buckets.export.delete_prefix(results_folder(dataset_id, check.removesuffix(".json")))
    buckets.data.delete(name)


def _as_sent(problem: Problem) -> Problem:
    """Return a problem with the place of its field in a request to check."""
    is_base_model = problem.loc == ("training_config", "base_model_id") and problem.code != "field_without_use"
    return replace(problem, loc=("base_model_id",)) if is_base_model else problem
