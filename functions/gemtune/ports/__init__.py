"""Interfaces to the platform: jobs, messages, objects, secrets, workflows.

`embedded/` implements them for one workstation and `gcp/` for Google Cloud. No other code knows which of the two runs.
"""

from __future__ import annotations

from gemtune.ports.bus import Bus, ReceivedMessage, Topic
from gemtune.ports.callers import Callers
from gemtune.ports.clock import Clock
from gemtune.ports.executions import CheckRunner, ExecutionState, Launcher, StepJob
from gemtune.ports.job_store import Change, CreateResult, JobStore, Page, Tombstone
from gemtune.ports.logs import LogLine, LogLines, Logs
from gemtune.ports.objects import MAX_READ_BYTES, Buckets, Link, Objects, ObjectStat, UploadLink
from gemtune.ports.secrets import Secrets, SecretStat
from gemtune.ports.shared_documents import SharedDocuments

__all__ = [
    "MAX_READ_BYTES",
    "Buckets",
    "Bus",
    "Callers",
    "Change",
    "CheckRunner",
    "Clock",
    "CreateResult",
    "ExecutionState",
    "JobStore",
    "Launcher",
    "Link",
    "LogLine",
    "LogLines",
    "Logs",
    "ObjectStat",
    "Objects",
    "Page",
    "ReceivedMessage",
    "SecretStat",
    "Secrets",
    "SharedDocuments",
    "StepJob",
    "Tombstone",
    "Topic",
    "UploadLink",
]
