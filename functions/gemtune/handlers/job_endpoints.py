"""Operations on jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

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
from gemtune.handlers import answers, routes
from gemtune.handlers.description.endpoint import Endpoint
from gemtune.handlers.description.parameters import OneOf, Text, WholeNumber
from gemtune.jobs import page_tokens
from gemtune.jobs.status import Status, Step
from gemtune.methods import Modality
from gemtune.request.spec import ExportRequest, ResumeRequest, TrainRequest
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

JOBS: Sequence[Endpoint] = (
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
)
