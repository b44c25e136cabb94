"""Where trainers keep what they work on, below GEMTUNE_HOME; what killed ones left there is removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from gemtune.ports import JobStore


def remove_idle(work: Path, store: JobStore) -> None:
    """Remove the folders of jobs that are over or gone. A trainer that has not noticed yet could not write anyway."""
    if work.is_dir():
        unfinished = {job.job_id for job in store.unfinished()}
        for folder in work.iterdir():
            if folder.name not in unfinished:
                shutil.rmtree(folder, ignore_errors=True)
