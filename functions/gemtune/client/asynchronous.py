"""The asynchronous client, with the verbs of the synchronous one."""

from __future__ import annotations

import asyncio
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
from gemtune.client.transport import AsyncTransport, typed
from gemtune.handlers import answers
from gemtune.jobs.events import Event
from gemtune.jobs.parts.results import JobWarning
from gemtune.jobs.record import JobSummary

Answer = TypeVar("Answer")


class AsyncClient:
    """Asynchronous client of a service.

    url, token: of the service; without them the variables GEMTUNE_URL and GEMTUNE_ID_TOKEN count, then a profile (see
    `gemtune config`), then the service of this machine. Errors are `gemtune.client.errors.ClientError`.
    """

    def __init__(self, url: str | None = None, *, token: str | None = None, profile: str | None = None):
        self._transport = AsyncTransport(find_address(url, token, profile))
        self.datasets = AsyncDatasets(self._transport)

    def __repr__(self) -> str:
        return f"AsyncClient({self._transport.address.url!r})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def train(
        self,
        request: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[TrainOptions],
    ) -> AsyncJob:
        """Submit a training and return its job, after uploading its rows.

        request: fields of a request; options replace them.
        """
        body, files, name = operations.read_options(request, options)
        accepted = await self._transport.run(operations.train(body, files, name, key=idempotency_key))
        return AsyncJob(self._transport, accepted.job_id, tuple(accepted.warnings))

    async def plan(self, request: Mapping[str, Any] | None = None, **options: Unpack[TrainOptions]) -> WarnedPlan:
        """Return what a training would take, with warnings; create nothing."""
        return WarnedPlan.of(await self._transport.run(operations.plan(*operations.read_options(request, options))))

    async def jobs(
        self, *, status: str | None = None, modality: str | None = None, limit: int | None = None
    ) -> list[JobSummary]:
        """Return jobs, newest first; without a limit all of them."""
        return await self._transport.run(operations.list_jobs(status=status, modality=modality, limit=limit))

    async def job(self, reference: str) -> AsyncJob:
        """Return a job by its id, a part of it at either end, or its name."""
        return AsyncJob(self._transport, await self._transport.run(find_job(reference)))

    async def models(self) -> answers.Models:
        """Return base models at hand, and what published sizes need."""
        return await _send(self._transport, get("/models", answers.Models))

    async def account(self) -> answers.Account:
        """Return what your jobs have taken this month, and the budget."""
        return await _send(self._transport, get("/account", answers.Account))

    async def health(self) -> answers.Health:
        """Return the health and the version of the service."""
        return await _send(self._transport, get("/health", answers.Health))


@dataclass(frozen=True, slots=True)
class AsyncJob:
    """A job of a service; `warnings` as of `sync.Job`."""

    _transport: AsyncTransport = field(repr=False)
    job_id: str
    warnings: tuple[JobWarning, ...] = field(default=(), compare=False, repr=False)

    async def status(self) -> answers.JobStatus:
        """Return everything about the job."""
        return await self._get("status", answers.JobStatus)

    async def plan(self) -> WarnedPlan:
        """Return what the job will take, once its rows are counted."""
        return WarnedPlan.of(await self._get("plan", answers.Planned))

    async def request(self) -> answers.JobRequest:
        """Return the request of the job, and which fields it leaves out.

        `client.train` takes it, for example with other values.
        """
        return await self._get("request", answers.JobRequest)

    async def events(self) -> list[Event]:
        """Return the events of the job."""
        return await self._run(operations.list_events(self.job_id))

    async def metrics(self) -> Any:
        """Return the loss history, as a DataFrame where pandas is installed."""
        return curves.as_table((await self._get("metrics", answers.LossHistory)).metrics)

    async def logs(
        self, step: str | None = None, *, tail: int | None = operations.LOG_LINES
    ) -> list[answers.JobLogLine]:
        """Return the output of the job's steps, or of one.

        tail: only so many lines of its end; None: all of it.
        """
        return await self._run(operations.read_logs(self.job_id, step, tail))

    async def checkpoints(self) -> Sequence[answers.Checkpoint]:
        """Return the checkpoints of a training that is not finished."""
        return (await self._get("checkpoints", answers.JobCheckpoints)).checkpoints

    async def artifacts(self) -> Sequence[answers.ArtifactLink]:
        """Return the files of the result."""
        return (await self._get("artifacts", answers.JobArtifacts)).artifacts

    async def download(self, folder: str | Path) -> list[Path]:
        """Download the result, checked against its hashes; return the files.

        Files that the folder has already are not downloaded again.
        """
        target = Path(folder).expanduser()
        return [await asyncio.to_thread(download, artifact, target) for artifact in await self.artifacts()]

    async def wait(self, *, timeout: float | None = None, check: bool = True) -> answers.JobStatus:
        """Return the status once the job is over.

        timeout: seconds to wait at most. Raises TimeoutError; and JobFailed if the job is not completed and `check` is
        true.
        """
        return await self._run(operations.wait(self.job_id, timeout=timeout, check=check))

    async def watch(self) -> answers.JobStatus:
        """Show the loss curve in a notebook until the job is over."""
        return await self._run(operations.watch(self.job_id, curves.open_picture()))

    async def pause(self) -> answers.JobStatus:
        """Pause the job at its next checkpoint."""
        return await self._post("pause", answers.JobStatus)

    async def resume(self, *, max_cost_usd: float | None = None, max_hours: float | None = None) -> answers.JobStatus:
        """Resume the paused job, with higher caps if it has reached one."""
        caps = {"max_cost_usd": max_cost_usd, "max_hours": max_hours}
        return await self._post(
            "resume", answers.JobStatus, {name: cap for name, cap in caps.items() if cap is not None}
        )

    async def cancel(self) -> answers.JobStatus:
        """Cancel the job; it cannot be resumed."""
        return await self._post("cancel", answers.JobStatus)

    async def export(self, format: str, **fields: Any) -> AsyncJob:  # noqa: A002
        """Export the trained job in another form, as a new job.

        fields: of `export_config`, such as `quantization`.
        """
        request = {"export_config": {"format": format, **fields}}
        accepted = await self._post("exports", answers.Accepted, request)
        return AsyncJob(self._transport, accepted.job_id, tuple(accepted.warnings))

    async def delete(self) -> None:
        """Delete the job with all of its files."""
        await _send(self._transport, Call("DELETE", f"/jobs/{self.job_id}", answers.Deleted))

    async def _get(self, part: str, answer: type[Answer]) -> Answer:
        return await _send(self._transport, get(f"/jobs/{self.job_id}/{part}", answer))

    async def _post(self, verb: str, answer: type[Answer], json: object = None) -> Answer:
        return await _send(self._transport, Call("POST", f"/jobs/{self.job_id}/{verb}", answer, json=json))

    async def _run(self, operation: Operation[Answer]) -> Answer:
        return await self._transport.run(operation)


@dataclass(frozen=True, slots=True)
class AsyncDatasets:
    """Datasets of a service."""

    _transport: AsyncTransport = field(repr=False)

    async def upload(
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
        return await self._transport.run(uploads.upload(files, name=name or own_name, tags=tags))

    async def list(self) -> list[answers.Dataset]:
        """Return all datasets."""
        return await self._transport.run(references.list_datasets())

    async def show(self, dataset_id: str) -> answers.Dataset:
        """Return a dataset."""
        return await _send(self._transport, get(f"/datasets/{dataset_id}", answers.Dataset))

    async def rows(self, dataset_id: str, *, split: str | None = None, limit: int = 20) -> Sequence[CheckedRow]:
        """Return the first rows of a split: `train`, or `held_out`."""
        return await self._transport.run(operations.list_rows(dataset_id, split=split, limit=limit))

    async def files(self, dataset_id: str) -> Sequence[answers.DatasetFileLink]:
        """Return the files of a dataset, with links."""
        return await self._transport.run(operations.list_files(dataset_id))

    async def download(self, dataset_id: str, folder: str | Path) -> Sequence[Path]:
        """Download the files of a dataset as they were uploaded; return them.

        Each is checked against its hash. Files that the folder has already are not downloaded again.
        """
        target = Path(folder).expanduser()
        return [await asyncio.to_thread(download, file, target) for file in await self.files(dataset_id)]

    async def check(
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
        return await self._transport.run(operation)

    async def delete(self, dataset_id: str) -> None:
        """Delete a dataset that no unfinished job uses."""
        await _send(self._transport, Call("DELETE", f"/datasets/{dataset_id}", answers.DatasetDeleted))


async def _send(transport: AsyncTransport, call: Call[Answer]) -> Answer:
    """Send a call and return the model of its answer."""
    answer: Answer = typed(call, await transport.send(call))
    return answer
