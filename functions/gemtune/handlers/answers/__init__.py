"""Bodies of the API's answers."""

from __future__ import annotations

from gemtune.handlers.answers.base_models import AvailableModel, Models, PublishedModel, TrainingNeed
from gemtune.handlers.answers.datasets import (
    Dataset,
    DatasetCheck,
    DatasetDeleted,
    DatasetFiles,
    DatasetList,
    DatasetRows,
    PartLink,
    PartLinks,
    PartStored,
)
from gemtune.handlers.answers.files import ArtifactLink, DatasetFileLink, FileLink
from gemtune.handlers.answers.jobs import (
    Accepted,
    AcceptedOrPlanned,
    Checkpoint,
    Deleted,
    JobArtifacts,
    JobCheckpoints,
    JobEvents,
    JobList,
    JobLogLine,
    JobLogs,
    JobRequest,
    LossHistory,
    Planned,
)
from gemtune.handlers.answers.service import ErrorAnswer, ErrorSentence, Health, ProblemAnswer
from gemtune.handlers.answers.status import Account, JobStatus, Spent, StepStatus

__all__ = [
    "Accepted",
    "AcceptedOrPlanned",
    "Account",
    "ArtifactLink",
    "AvailableModel",
    "Checkpoint",
    "Dataset",
    "DatasetCheck",
    "DatasetDeleted",
    "DatasetFileLink",
    "DatasetFiles",
    "DatasetList",
    "DatasetRows",
    "Deleted",
    "ErrorAnswer",
    "ErrorSentence",
    "FileLink",
    "Health",
    "JobArtifacts",
    "JobCheckpoints",
    "JobEvents",
    "JobList",
    "JobLogLine",
    "JobLogs",
    "JobRequest",
    "JobStatus",
    "LossHistory",
    "Models",
    "PartLink",
    "PartLinks",
    "PartStored",
    "Planned",
    "ProblemAnswer",
    "PublishedModel",
    "Spent",
    "StepStatus",
    "TrainingNeed",
]
