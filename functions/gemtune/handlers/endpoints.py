"""Operations of the HTTP API.

The router and the OpenAPI document are both built from this table.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, get_args

from pydantic import RootModel

from gemtune.bootstrap import Services
from gemtune.checks.errors import CheckNotFound, RowsNotReadable, TooManyChecks
from gemtune.checks.request import CheckRequest
from gemtune.checks.row import SplitName
from gemtune.datasets.uploads.errors import (
    BadPart,
    ChecksumMismatch,
    DatasetIncomplete,
    DatasetInUse,
    DatasetNotFound,
    DatasetUnreadable,
)
from gemtune.datasets.uploads.record import PART_BYTES
from gemtune.errors import (
    BadIdempotencyKey,
    BadPageToken,
    CannotPause,
    CapReached,
    JobHasChildren,
    JobIsOver,
    JobIsRunning,
    JobNotFound,
    JobNotPaused,
    JobWasDeleted,
    KeyReused,
    LogsBusy,
    NoLogs,
    NoSignedLinks,
    NothingTrained,
    PlanNotMade,
    RecordUnreadable,
    SpecUnreadable,
)
from gemtune.handlers import answers, openapi, routes
from gemtune.handlers.endpoint import Binary, Endpoint
from gemtune.handlers.parameters import OneOf, Text, WholeNumber
from gemtune.jobs import page_tokens
from gemtune.jobs.status import Status, Step
from gemtune.methods import Modality
from gemtune.request.spec import ExportRequest, ResumeRequest, TrainRequest
from gemtune.request.uploads.dataset import MAX_FILE_BYTES, MAX_FILES, DatasetUpload
from gemtune.untrusted import MAX_NUMBER

LIMIT = WholeNumber(name="limit", description="jobs per page", least=1, most=200, default=50)
STATUS = OneOf(name="status", description="only jobs with this status; absent: all", values=tuple(Status))
MODALITY = OneOf(name="modality", description="only jobs of this modality; absent: all", values=get_args(Modality))
PAGE_TOKEN = Text(
    name="page_token",
    description="`next_page_token` of the previous page; absent: the first page",
    max_length=page_tokens.MAX_LENGTH,
    pattern=page_tokens.PATTERN,
    code="bad_page_token",
    hint="start again without page_token",
)
AFTER_EVENT = WholeNumber(
    name="after", description="only events with a higher `seq`", least=0, most=MAX_NUMBER, default=0
)
AFTER_STEP = WholeNumber(
    name="after",
    description="only entries with a higher train_step; absent: all",
    least=0,
    most=MAX_NUMBER,
    default=None,
)
STEP = OneOf(name="step", description="only output of this step; absent: of all", values=tuple(Step))
AFTER_LINE = Text(
    name="after",
    description="`next_after` of the previous page; absent: the first lines",
    max_length=400,
    pattern="[!-~]+",
    code="bad_page_token",
    hint="start again without after",
)
LINES_LIMIT = WholeNumber(name="limit", description="lines per page", least=1, most=1000, default=500)
DRY_RUN = OneOf(
    name="dry_run",
    description="`true`: check the request and answer what the job would take, without creating it",
    values=("true", "false"),
)
IDEMPOTENCY_KEY = Text(
    name="Idempotency-Key",
    description="key of 1 to 1024 characters; a request that repeats key and content returns the same job",
    place="header",
    max_length=1024,
    pattern="^[!-~]([ -~]*[!-~])?$",
    code="bad_idempotency_key",
    hint="use at most 1024 printable ASCII characters, and no token",
)
FILE_NUMBER = WholeNumber(
    name="file", description="number of the file in `files`, from 0", least=0, most=MAX_FILES - 1, default=0
)
PART_NUMBER = WholeNumber(
    name="part", description="number of the part, from 0", least=0, most=MAX_FILE_BYTES // PART_BYTES, default=0
)
DATASETS_LIMIT = WholeNumber(name="limit", description="datasets per page", least=1, most=200, default=50)
AFTER_DATASET = Text(
    name="after",
    description="`next_after` of the previous page; absent: the first page",
    max_length=255,
    pattern="[!-~]([ -~]*[!-~])?",
    code="bad_page_token",
    hint="start again without after",
)
FILES_LIMIT = WholeNumber(name="limit", description="files per page", least=1, most=200, default=50)
AFTER_FILE = WholeNumber(
    name="after", description="`next_after` of the previous page", least=0, most=MAX_NUMBER, default=0
)
SPLIT = OneOf(name="split", description="split of the dataset; absent: train", values=get_args(SplitName))
ROWS_LIMIT = WholeNumber(name="limit", description="rows per page", least=1, most=200, default=20)
AFTER_ROW = Text(
    name="after",
    description="`next_after` of the previous page; absent: the first rows",
    max_length=40,
    pattern="[a-z0-9-]+",
    code="bad_page_token",
    hint="start again without after",
)
CHECK_ID = Text(
    name="check_id",
    description="done check of the dataset: show the first rows of the split with their text, tokens and mask; absent: "
    "show rows as the files have them",
    max_length=40,
    pattern="[a-z0-9_]+",
    code="bad_form",
    hint="send the check_id of POST /datasets/{dataset_id}/check",
)


class Document(RootModel[dict[str, Any]]):
    """An OpenAPI document."""


@cache
def document() -> Document:
    """Return the OpenAPI document of this table."""
    return Document(openapi.document(ENDPOINTS))


def show_document(services: Services) -> Document:
    """Show the OpenAPI document."""
    return document()


ENDPOINTS: Sequence[Endpoint] = (
    Endpoint(
        method="POST",
        path="/train",
        summary="Submit a job, or plan it",
        route=routes.train,
        success=202,
        answer=answers.AcceptedOrPlanned,
        body=TrainRequest,
        parameters=(DRY_RUN, IDEMPOTENCY_KEY),
        errors=(BadIdempotencyKey, KeyReused, JobWasDeleted),
    ),
    Endpoint(
        method="GET",
        path="/jobs",
        summary="List jobs, newest first",
        route=routes.list_jobs,
        success=200,
        answer=answers.JobList,
        body=None,
        parameters=(STATUS, MODALITY, LIMIT, PAGE_TOKEN),
        errors=(BadPageToken,),
    ),
    Endpoint(
        method="GET",
        path="/jobs/{job_id}/status",
        summary="Show a job",
        route=routes.status,
        success=200,
        answer=answers.JobStatus,
        body=None,
        parameters=(),
        errors=(JobNotFound, RecordUnreadable),
    ),
    Endpoint(
        method="GET",
        path="/jobs/{job_id}/plan",
        summary="Show what a job will take",
        route=routes.plan,
        success=200,
        answer=answers.Planned,
        body=None,
        parameters=(),
        errors=(JobNotFound, PlanNotMade, RecordUnreadable),
    ),
    Endpoint(
        method="GET",
        path="/jobs/{job_id}/request",
        summary="Show the request of a job, to send it again",
        route=routes.request,
        success=200,
        answer=answers.JobRequest,
        body=None,
        parameters=(),
        errors=(JobNotFound, SpecUnreadable, RecordUnreadable),
    ),
    Endpoint(
        method="GET",
        path="/jobs/{job_id}/events",
        summary="List a job's events, by number",
        route=routes.events,
        success=200,
        answer=answers.JobEvents,
        body=None,
        parameters=(AFTER_EVENT,),
        errors=(JobNotFound,),
    ),
    Endpoint(
        method="GET",
        path="/jobs/{job_id}/metrics",
        summary="Show a job's loss curve",
        route=routes.metrics,
        success=200,
        answer=answers.LossHistory,
        body=None,
        parameters=(AFTER_STEP,),
        errors=(JobNotFound, RecordUnreadable),
    ),
    Endpoint(
        method="GET",
        path="/jobs/{job_id}/checkpoints",
        summary="List the checkpoints of a job that trains",
        route=routes.checkpoints,
        success=200,
        answer=answers.JobCheckpoints,
        body=None,
        parameters=(),
        errors=(JobNotFound, RecordUnreadable),
    ),
    Endpoint(
        method="GET",
        path="/jobs/{job_id}/logs",
        summary="Show the output of a job's steps",
        route=routes.logs,
        success=200,
        answer=answers.JobLogs,
        body=None,
        parameters=(STEP, AFTER_LINE, LINES_LIMIT),
        errors=(BadPageToken, JobNotFound, RecordUnreadable, NoLogs, LogsBusy),
    ),
    Endpoint(
        method="GET",
        path="/jobs/{job_id}/artifacts",
        summary="List the files of a job's result",
        route=routes.artifacts,
        success=200,
        answer=answers.JobArtifacts,
        body=None,
        parameters=(),
        errors=(JobNotFound, RecordUnreadable, NoSignedLinks),
    ),
    Endpoint(
        method="POST",
        path="/jobs/{job_id}/exports",
        summary="Export again what a job trained",
        route=routes.export,
        success=202,
        answer=answers.Accepted,
        body=ExportRequest,
        parameters=(IDEMPOTENCY_KEY,),
        errors=(
            BadIdempotencyKey,
            JobNotFound,
            KeyReused,
            JobWasDeleted,
            JobIsRunning,
            NothingTrained,
            SpecUnreadable,
            RecordUnreadable,
        ),
    ),
    Endpoint(
        method="POST",
        path="/jobs/{job_id}/cancel",
        summary="Cancel a job",
        route=routes.cancel,
        success=202,
        answer=answers.JobStatus,
        body=None,
        parameters=(),
        errors=(JobNotFound, JobIsOver, RecordUnreadable),
    ),
    Endpoint(
        method="POST",
        path="/jobs/{job_id}/pause",
        summary="Pause a job",
        route=routes.pause,
        success=202,
        answer=answers.JobStatus,
        body=None,
        parameters=(),
        errors=(JobNotFound, JobIsOver, CannotPause, RecordUnreadable),
    ),
    Endpoint(
        method="POST",
        path="/jobs/{job_id}/resume",
        summary="Resume a paused job",
        route=routes.resume,
        success=202,
        answer=answers.JobStatus,
        body=ResumeRequest,
        parameters=(),
        errors=(JobNotFound, JobIsOver, JobNotPaused, CapReached, RecordUnreadable),
    ),
    Endpoint(
        method="DELETE",
        path="/jobs/{job_id}",
        summary="Delete a job and its files",
        route=routes.delete,
        success=200,
        answer=answers.Deleted,
        body=None,
        parameters=(),
        errors=(JobNotFound, JobIsRunning, JobHasChildren, RecordUnreadable),
    ),
    Endpoint(
        method="GET",
        path="/account",
        summary="Show what the caller's jobs have taken this month",
        route=routes.account,
        success=200,
        answer=answers.Account,
        body=None,
        parameters=(),
        errors=(),
    ),
    Endpoint(
        method="POST",
        path="/datasets",
        summary="Begin or repeat the upload of a dataset",
        route=routes.upload_dataset,
        success=200,
        answer=answers.Dataset,
        body=DatasetUpload,
        parameters=(),
        errors=(DatasetUnreadable,),
    ),
    Endpoint(
        method="PUT",
        path="/datasets/{dataset_id}/parts",
        summary="Send one part of a file of a dataset",
        route=routes.upload_part,
        success=200,
        answer=answers.PartStored,
        body=Binary(PART_BYTES),
        parameters=(FILE_NUMBER, PART_NUMBER),
        errors=(DatasetNotFound, BadPart, DatasetUnreadable),
    ),
    Endpoint(
        method="POST",
        path="/datasets/{dataset_id}/complete",
        summary="Put the parts of a dataset together",
        route=routes.complete_dataset,
        success=200,
        answer=answers.Dataset,
        body=None,
        parameters=(),
        errors=(DatasetNotFound, DatasetIncomplete, ChecksumMismatch, DatasetUnreadable),
    ),
    Endpoint(
        method="GET",
        path="/datasets",
        summary="List datasets",
        route=routes.list_datasets,
        success=200,
        answer=answers.DatasetList,
        body=None,
        parameters=(DATASETS_LIMIT, AFTER_DATASET),
        errors=(),
    ),
    Endpoint(
        method="GET",
        path="/datasets/{dataset_id}",
        summary="Show a dataset, and what is missing of its upload",
        route=routes.show_dataset,
        success=200,
        answer=answers.Dataset,
        body=None,
        parameters=(),
        errors=(DatasetNotFound, DatasetUnreadable),
    ),
    Endpoint(
        method="GET",
        path="/datasets/{dataset_id}/files",
        summary="List the files of a dataset, to download them",
        route=routes.dataset_files,
        success=200,
        answer=answers.DatasetFiles,
        body=None,
        parameters=(FILES_LIMIT, AFTER_FILE),
        errors=(DatasetNotFound, DatasetIncomplete, DatasetUnreadable, NoSignedLinks),
    ),
    Endpoint(
        method="DELETE",
        path="/datasets/{dataset_id}",
        summary="Delete a dataset that no unfinished job uses",
        route=routes.delete_dataset,
        success=200,
        answer=answers.DatasetDeleted,
        body=None,
        parameters=(),
        errors=(DatasetNotFound, DatasetInUse),
    ),
    Endpoint(
        method="GET",
        path="/datasets/{dataset_id}/rows",
        summary="Show rows of a dataset",
        route=routes.dataset_rows,
        success=200,
        answer=answers.DatasetRows,
        body=None,
        parameters=(SPLIT, ROWS_LIMIT, AFTER_ROW, CHECK_ID),
        errors=(BadPageToken, DatasetNotFound, CheckNotFound, RowsNotReadable, DatasetUnreadable),
    ),
    Endpoint(
        method="POST",
        path="/datasets/{dataset_id}/check",
        summary="Begin a check of a dataset, without a job",
        route=routes.begin_check,
        success=202,
        answer=answers.DatasetCheck,
        body=CheckRequest,
        parameters=(),
        errors=(DatasetNotFound, DatasetIncomplete, TooManyChecks, DatasetUnreadable),
    ),
    Endpoint(
        method="GET",
        path="/datasets/{dataset_id}/checks/{check_id}",
        summary="Show a check of a dataset, and its report",
        route=routes.show_check,
        success=200,
        answer=answers.DatasetCheck,
        body=None,
        parameters=(),
        errors=(CheckNotFound, NoSignedLinks),
    ),
    Endpoint(
        method="GET",
        path="/models",
        summary="List base models: those at hand, and published sizes",
        route=routes.models,
        success=200,
        answer=answers.Models,
        body=None,
        parameters=(),
        errors=(),
    ),
    Endpoint(
        method="GET",
        path="/health",
        summary="Say that the service runs",
        route=routes.health,
        success=200,
        answer=answers.Health,
        body=None,
        parameters=(),
        errors=(),
    ),
    Endpoint(
        method="GET",
        path="/openapi.json",
        summary="Describe this API",
        route=show_document,
        success=200,
        answer=Document,
        body=None,
        parameters=(),
        errors=(),
    ),
)
