"""Where trainers keep what they work on, below GEMTUNE_HOME; what killed ones left there is removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from gemtune.errors import JobNotFound
from gemtune.ports import JobStore


def remove_idle(work: Path, store: JobStore) -> None:
    """Remove the folders of jobs that are over or gone. A trainer that has not noticed yet could not write anyway."""
    for folder in work.iterdir() if work.is_dir() else ():
        if _is_idle(folder.name, store):
            shutil.rmtree(folder, ignore_errors=True)


def _is_idle(job_id: str, store: JobStore) -> bool:
    try:
        return store.salvage(job_id).is_over
    except JobNotFound:
        return True
