"""Clean-up of the trainers' working folders below GEMTUNE_HOME."""

from __future__ import annotations

import shutil
from pathlib import Path

from gemtune.errors import JobNotFound
from gemtune.ports import JobStore
from gemtune.process import children


def remove_idle(work: Path, store: JobStore) -> None:
    """Remove the working folders of jobs that are over or deleted.

    A killed trainer leaves its folder behind. A trainer that has not noticed the end of its job yet loses nothing: the
    store would not accept its results.
    """
    for folder in work.iterdir() if work.is_dir() else ():
        if _is_idle(folder.name, store):
            shutil.rmtree(folder, ignore_errors=True)


def remove_ended_checks(work: Path) -> None:
    """Remove the working folders of checks whose process was killed."""
    for folder in work.iterdir() if work.is_dir() else ():
        if children.pid_of(folder.name) is None:
            shutil.rmtree(folder, ignore_errors=True)


def _is_idle(job_id: str, store: JobStore) -> bool:
    """Return whether a job is over or deleted."""
    try:
        return store.salvage(job_id).is_over
    except JobNotFound:
        return True
