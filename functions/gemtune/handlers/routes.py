"""Routes of the API: each decodes, calls one service, and encodes."""

from __future__ import annotations

from gemtune.bootstrap import Services
from gemtune.checks import request as check_request
from gemtune.checks.row import SplitName
from gemtune.errors import PlanNotMade
from gemtune.handlers import answers
from gemtune.handlers.file_links import artifact_links, dataset_file_links
from gemtune.jobs.sources import Source
from gemtune.jobs.status import Status, Step
from gemtune.machines import plan_warnings
from gemtune.request import parsing as requests
from gemtune.request.uploads import dataset
from gemtune.services.acceptance.create_job import Submission
from gemtune.services.acceptance.stored_request import stored_request
from gemtune.training_files.checkpoints import list_checkpoints
from gemtune.training_files.loss_history import loss_history


def train(
    services: Services, *, owner: str, body: bytes, idempotency_key: str | None, dry_run: str | None
) -> answers.AcceptedOrPlanned:
    """Accept a request to train, or only plan it."""
    reading = requests.read(body, Source.HTTP)
    if dry_run == "true":
        spec, facts = services.submit.rehearse(reading, owner=owner)
        planner = services.planner
        planned = answers.Planned(plan=planner.of_request(spec, facts), warnings=planner.warnings(spec, facts))
        return answers.AcceptedOrPlanned(planned)
    job = services.submit(Submission(reading, Source.HTTP, owner, idempotency_key))
    return answers.AcceptedOrPlanned(answers.Accepted(job_id=job.job_id, warnings=job.warnings))


def plan(services: Services, *, job_id: str) -> answers.Planned:
    """Show the plan of a job."""
    job = services.store.get(job_id)
    if job.plan is None:
        raise PlanNotMade(job_id, ended=str(job.status) if job.is_over else None, only_exports=job.only_exports)
    warnings = tuple(plan_warnings.warnings_of(job.plan, job.max_cost_usd, job.max_hours))
    return answers.Planned(plan=job.plan, warnings=warnings)


def request(services: Services, *, job_id: str) -> answers.JobRequest:
    """Show the request of a job."""
    stored = stored_request(services.buckets, services.store.get(job_id))
    return answers.JobRequest(
        request=stored.request.model_dump(mode="json"), path=stored.path, left_out=stored.left_out
    )


def export(
    services: Services, *, job_id: str, owner: str, body: bytes, idempotency_key: str | None
) -> answers.Accepted:
    """Accept a request for another export of what a job trained."""
    submission = Submission(requests.read_export(body), Source.HTTP, owner, idempotency_key)
    return answers.Accepted(job_id=services.export_again(job_id, submission).job_id)


def list_jobs(
    services: Services, *, status: str | None, modality: str | None, limit: int, page_token: str | None
) -> answers.JobList:
    """List jobs, newest first."""
    status_filter = None if status is None else Status(status)
    page = services.store.page(status=status_filter, modality=modality, limit=limit, page_token=page_token)
    return answers.JobList(jobs=page.jobs, next_page_token=page.next_page_token)


def status(services: Services, *, job_id: str) -> answers.JobStatus:
    """Show a job."""
    return answers.JobStatus.of(services.store.get(job_id), services.prices)


def events(services: Services, *, job_id: str, after: int) -> answers.JobEvents:
    """List a job's events after a sequence number."""
    return answers.JobEvents(events=services.store.events(job_id, after=after))


def metrics(services: Services, *, job_id: str, after: int | None) -> answers.LossHistory:
    """Show a job's loss curve."""
    job = services.store.get(job_id)
    return answers.LossHistory(metrics=loss_history(services.buckets.export, job.job_id, after=after))


def checkpoints(services: Services, *, job_id: str) -> answers.JobCheckpoints:
    """List the checkpoints of a job's training."""
    job = services.store.get(job_id)
    listed = list_checkpoints(services.buckets.export, job.trained_by)
    return answers.JobCheckpoints(checkpoints=[answers.Checkpoint.of(each) for each in listed])


def logs(services: Services, *, job_id: str, step: str | None, after: str | None, limit: int) -> answers.JobLogs:
    """Show the output of a job's steps."""
    page = services.read_logs(job_id, step=None if step is None else Step(step), after=after, limit=limit)
    return answers.JobLogs.of(page)


def artifacts(services: Services, *, job_id: str) -> answers.JobArtifacts:
    """List the files of a job's result, with links."""
    return answers.JobArtifacts(artifacts=artifact_links(services.buckets.export, services.store.get(job_id)))


def cancel(services: Services, *, job_id: str) -> answers.JobStatus:
    """Cancel a job."""
    return answers.JobStatus.of(services.cancel(job_id), services.prices)


def pause(services: Services, *, job_id: str) -> answers.JobStatus:
    """Pause a job."""
    return answers.JobStatus.of(services.pause(job_id), services.prices)


def resume(services: Services, *, job_id: str, owner: str, body: bytes) -> answers.JobStatus:
    """Resume a paused job, perhaps with higher caps."""
    return answers.JobStatus.of(services.resume(job_id, requests.read_resume(body)), services.prices)


def account(services: Services, *, owner: str) -> answers.Account:
    """Show what the caller's jobs have taken this month."""
    return answers.Account.of(owner, services.budgets)


def delete(services: Services, *, job_id: str) -> answers.Deleted:
    """Delete a job."""
    services.delete(job_id)
    return answers.Deleted(job_id=job_id)


def upload_dataset(services: Services, *, owner: str, body: bytes) -> answers.Dataset:
    """Announce the files of a dataset."""
    record = services.upload_dataset.begin(dataset.read(body).require_valid())
    return _dataset(services, record.dataset_id)


def upload_file(services: Services, *, body: bytes, kind: str | None, name: str | None) -> answers.Dataset:
    """Store a file of rows as a dataset."""
    record = services.upload_dataset.store_file(f"train.{kind or 'jsonl'}", body, name=name)
    return _dataset(services, record.dataset_id)


def upload_part(services: Services, *, dataset_id: str, body: bytes, file: int, part: int) -> answers.PartStored:
    """Store one part of a file of a dataset."""
    services.upload_dataset.store_part(dataset_id, file, part, body)
    return answers.PartStored(file=file, part=part)


def part_links(services: Services, *, dataset_id: str, body: bytes) -> answers.PartLinks:
    """Return links that send parts of a dataset to the storage."""
    parts = dataset.read_part_links(body).require_valid().parts
    links = services.upload_dataset.links(dataset_id, parts)
    return answers.PartLinks(
        links=[
            answers.PartLink(file=part.file, part=part.part, url=link.url, headers=link.headers)
            for part, link in zip(parts, links, strict=False)  # a complete dataset has no links
        ]
    )


def complete_dataset(services: Services, *, dataset_id: str) -> answers.Dataset:
    """Put the parts of a dataset together."""
    services.upload_dataset.complete(dataset_id)
    return _dataset(services, dataset_id)


def list_datasets(services: Services, *, limit: int, after: str | None) -> answers.DatasetList:
    """List datasets in the order of their folders."""
    described, last = services.datasets.page(after=after, limit=limit)
    has_links = services.buckets.data.has_upload_links
    listed = [answers.Dataset.of(each, {}, part_links=has_links) for each in described]
    return answers.DatasetList(datasets=listed, next_after=last)


def show_dataset(services: Services, *, dataset_id: str) -> answers.Dataset:
    """Show a dataset."""
    return _dataset(services, dataset_id)


def dataset_files(services: Services, *, dataset_id: str, after: int, limit: int) -> answers.DatasetFiles:
    """List the files of a dataset, with links."""
    files, next_after = services.datasets.files(dataset_id, after=after, limit=limit)
    links = dataset_file_links(services.buckets.data, dataset_id, files)
    return answers.DatasetFiles(files=links, next_after=next_after)


def delete_dataset(services: Services, *, dataset_id: str) -> answers.DatasetDeleted:
    """Delete a dataset."""
    services.datasets.delete(dataset_id)
    services.check_dataset.delete_all(dataset_id)
    return answers.DatasetDeleted(dataset_id=dataset_id)


def begin_check(services: Services, *, dataset_id: str, owner: str, body: bytes) -> answers.DatasetCheck:
    """Begin a check of a dataset."""
    return answers.DatasetCheck.of(services.check_dataset.begin(dataset_id, check_request.read(body)))


def dataset_rows(
    services: Services, *, dataset_id: str, split: str | None, after: str | None, limit: int, check_id: str | None
) -> answers.DatasetRows:
    """Show rows of a dataset."""
    of_split: SplitName = "held_out" if split == "held_out" else "train"
    if check_id is None:
        page = services.read_rows.stored(dataset_id, of_split, after=after, limit=limit)
    else:
        page = services.read_rows.checked(dataset_id, of_split, check_id, after=after, limit=limit)
    return answers.DatasetRows(rows=page.rows, next_after=page.next_after)


def show_check(services: Services, *, dataset_id: str, check_id: str) -> answers.DatasetCheck:
    """Show a check of a dataset, with its report when it is done."""
    return answers.DatasetCheck.of(services.check_dataset.read(dataset_id, check_id))


def _dataset(services: Services, dataset_id: str) -> answers.Dataset:
    description = services.datasets.describe(dataset_id)
    missing = (
        {} if description.is_ready else services.upload_dataset.missing_parts(services.upload_dataset.read(dataset_id))
    )
    return answers.Dataset.of(description, missing, part_links=services.buckets.data.has_upload_links)


def models(services: Services) -> answers.Models:
    """List base models: those at hand, and published sizes."""
    base_models = services.base_models
    return answers.Models.of(base_models.at_hand(), base_models.known(), base_models.memory_gib)


def health(services: Services) -> answers.Health:
    """Say that the service runs."""
    return answers.Health()
