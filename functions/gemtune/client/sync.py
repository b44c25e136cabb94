"""The synchronous client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, Unpack

from gemtune.checks.row import CheckedRow
from gemtune.client import curves, operations, references, uploads
from gemtune.client.calls import Call, Operation
from gemtune.client.downloads import download
from gemtune.client.operations import WarnedPlan, get
from gemtune.client.profiles import find_address
from gemtune.client.references import find_job
from gemtune.client.request import TrainOptions
from gemtune.client.transport import Transport, typed
from gemtune.handlers import answers
from gemtune.jobs.events import Event
from gemtune.jobs.parts.results import JobWarning
from gemtune.jobs.record import JobSummary

Answer = TypeVar("Answer")


class Client:
    """Client of a service.

    url, token: of the service; without them the variables GEMTUNE_URL and GEMTUNE_ID_TOKEN count, then a profile (see
    `gemtune config`), then the service of this machine. Errors are `gemtune.client.errors.ClientError`.
    """

    def __init__(self, url: str | None = None, *, token: str | None = None, profile: str | None = None):
        self._transport = Transport(find_address(url, token, profile))
        self.datasets = Datasets(self._transport)

    def __repr__(self) -> str:
        return f"Client({self._transport.address.url!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def train(
        self,
        request: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[TrainOptions],
    ) -> Job:
        """Submit a training and return its job, after uploading its rows.

        request: fields of a request; options replace them.
        """
        body, files, name = operations.read_options(request, options)
        accepted = self._transport.run(operations.train(body, files, name, key=idempotency_key))
        return Job(self._transport, accepted.job_id, tuple(accepted.warnings))

    def plan(self, request: Mapping[str, Any] | None = None, **options: Unpack[TrainOptions]) -> WarnedPlan:
        """Return what a training would take, with warnings; create nothing."""
        return WarnedPlan.of(self._transport.run(operations.plan(*operations.read_options(request, options))))

    def jobs(
        self, *, status: str | None = None, modality: str | None = None, limit: int | None = None
    ) -> list[JobSummary]:
        """Return jobs, newest first; without a limit all of them."""
        return self._transport.run(operations.list_jobs(status=status, modality=modality, limit=limit))

    def job(self, reference: str) -> Job:
        """Return a job by its id, a part of it at either end, or its name."""
        return Job(self._transport, self._transport.run(find_job(reference)))

    def models(self) -> answers.Models:
        """Return base models at hand, and what published sizes need."""
        return _send(self._transport, get("/models", answers.Models))

    def account(self) -> answers.Account:
        """Return what your jobs have taken this month, and the budget."""
        return _send(self._transport, get("/account", answers.Account))

    def health(self) -> answers.Health:
        """Return the health and the version of the service."""
        return _send(self._transport, get("/health", answers.Health))


@dataclass(frozen=True, slots=True)
class Job:
    """A job of a service.

    warnings: about its request, of a job that was just submitted; `status` has those of its steps as well.
    """

    _transport: Transport = field(repr=False)
    job_id: str
    warnings: tuple[JobWarning, ...] = field(default=(), compare=False, repr=False)

    def status(self) -> answers.JobStatus:
        """Return everything about the job."""
        return self._get("status", answers.JobStatus)

    def plan(self) -> WarnedPlan:
        """Return what the job will take, once its rows are counted."""
        return WarnedPlan.of(self._get("plan", answers.Planned))

    def request(self) -> answers.JobRequest:
        """Return the request of the job, and which fields it leaves out.

        `client.train` takes it, for example with other values.
        """
        return self._get("request", answers.JobRequest)

    def events(self) -> list[Event]:
        """Return the events of the job."""
        return self._run(operations.list_events(self.job_id))

    def metrics(self) -> Any:
        """Return the loss history, as a DataFrame where pandas is installed."""
        return curves.as_table(self._get("metrics", answers.LossHistory).metrics)

    def logs(self, step: str | None = None, *, tail: int | None = operations.LOG_LINES) -> list[answers.JobLogLine]:
        """Return the output of the job's steps, or of one.

        tail: only so many lines of its end; None: all of it.
        """
        return self._run(operations.read_logs(self.job_id, step, tail))

    def checkpoints(self) -> Sequence[answers.Checkpoint]:
        """Return the checkpoints of a training that is not finished."""
        return self._get("checkpoints", answers.JobCheckpoints).checkpoints

    def artifacts(self) -> Sequence[answers.ArtifactLink]:
        """Return the files of the result."""
        return self._get("artifacts", answers.JobArtifacts).artifacts

    def download(self, folder: str | Path) -> list[Path]:
        """Download the result, checked against its hashes; return the files.

        Files that the folder has already are not downloaded again.
        """
        return [download(artifact, Path(folder).expanduser()) for artifact in self.artifacts()]

    def wait(self, *, timeout: float | None = None, check: bool = True) -> answers.JobStatus:
        """Return the status once the job is over.

        timeout: seconds to wait at most. Raises TimeoutError; and JobFailed if the job is not completed and `check` is
        true.
        """
        return self._run(operations.wait(self.job_id, timeout=timeout, check=check))

    def watch(self) -> answers.JobStatus:
        """Show the loss curve in a notebook until the job is over."""
        return self._run(operations.watch(self.job_id, curves.open_picture()))

    def pause(self) -> answers.JobStatus:
        """Pause the job at its next checkpoint."""
        return self._post("pause", answers.JobStatus)

    def resume(self, *, max_cost_usd: float | None = None, max_hours: float | None = None) -> answers.JobStatus:
        """Resume the paused job, with higher caps if it has reached one."""
        caps = {"max_cost_usd": max_cost_usd, "max_hours": max_hours}
        return self._post("resume", answers.JobStatus, {name: cap for name, cap in caps.items() if cap is not None})

    def cancel(self) -> answers.JobStatus:
        """Cancel the job; it cannot be resumed."""
        return self._post("cancel", answers.JobStatus)

    def export(self, format: str, **fields: Any) -> Job:  # noqa: A002
        """Export the trained job in another form, as a new job.

        fields: of `export_config`, such as `quantization`.
        """
        request = {"export_config": {"format": format, **fields}}
        accepted = self._post("exports", answers.Accepted, request)
        return Job(self._transport, accepted.job_id, tuple(accepted.warnings))

    def delete(self) -> None:
        """Delete the job with all of its files."""
        _send(self._transport, Call("DELETE", f"/jobs/{self.job_id}", answers.Deleted))

    def _get(self, part: str, answer: type[Answer]) -> Answer:
        return _send(self._transport, get(f"/jobs/{self.job_id}/{part}", answer))

    def _post(self, verb: str, answer: type[Answer], json: object = None) -> Answer:
        return _send(self._transport, Call("POST", f"/jobs/{self.job_id}/{verb}", answer, json=json))

    def _run(self, operation: Operation[Answer]) -> Answer:
        return self._transport.run(operation)


@dataclass(frozen=True, slots=True)
class Datasets:
    """Datasets of a service."""

    _transport: Transport = field(repr=False)

    def upload(
        self,
        data: str | Path,
        *,
        eval: str | Path | None = None,  # noqa: A002
        name: str | None = None,
        tags: Sequence[str] = (),
    ) -> answers.Dataset:
        """Upload a file of rows, or a folder, and return its dataset.

        eval: file with the rows to evaluate on. The same files are the same dataset, and are sent only once.
        """
        _, files, own_name = operations.read_options(None, {"data": data, "eval": eval})
        assert files is not None
        return self._transport.run(uploads.upload(files, name=name or own_name, tags=tags))

    def list(self) -> list[answers.Dataset]:
        """Return all datasets."""
        return self._transport.run(references.list_datasets())

    def show(self, dataset_id: str) -> answers.Dataset:
        """Return a dataset."""
        return _send(self._transport, get(f"/datasets/{dataset_id}", answers.Dataset))

    def rows(self, dataset_id: str, *, split: str | None = None, limit: int = 20) -> Sequence[CheckedRow]:
        """Return the first rows of a split: `train`, or `held_out`."""
        return self._transport.run(operations.list_rows(dataset_id, split=split, limit=limit))

    def files(self, dataset_id: str) -> Sequence[answers.DatasetFileLink]:
        """Return the files of a dataset, with links."""
        return self._transport.run(operations.list_files(dataset_id))

    def download(self, dataset_id: str, folder: str | Path) -> Sequence[Path]:
        """Download the files of a dataset as they were uploaded; return them.

        Each is checked against its hash. Files that the folder has already are not downloaded again.
        """
        return [download(file, Path(folder).expanduser()) for file in self.files(dataset_id)]

    def check(
        self,
        dataset_id: str,
        *,
        model: str,
        training_config: Mapping[str, Any] | None = None,
        columns: Mapping[str, str | None] | None = None,
        fields: Mapping[str, Any] | None = None,
        samples: int = 3,
    ) -> answers.DatasetCheck:
        """Return what a training would make of a dataset, without a job.

        columns: as for a training. fields: others that the check takes, such as `modality`. samples: number of rows
        that the report shows with their tokens.
        """
        body = operations.check_request(model, training_config, columns, fields, samples=samples)
        operation = operations.check_dataset(dataset_id, body)
        return self._transport.run(operation)

    def delete(self, dataset_id: str) -> None:
        """Delete a dataset that no unfinished job uses."""
        _send(self._transport, Call("DELETE", f"/datasets/{dataset_id}", answers.DatasetDeleted))


def _send(transport: Transport, call: Call[Answer]) -> Answer:
    """Send a call and return the model of its answer."""
    answer: Answer = typed(call, transport.send(call))
    return answer
