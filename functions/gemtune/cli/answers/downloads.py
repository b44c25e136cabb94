"""Files of a job of another machine, downloaded once into the cache."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gemtune.cli.connection import Connection
from gemtune.client.downloads import download
from gemtune.client.errors import BadDownload, Unreachable
from gemtune.errors import StepError
from gemtune.handlers.answers import ArtifactLink
from gemtune.settings import cache_folder

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

FOLDER = "tried"


def fetch(connection: Connection, job_id: str) -> Path:
    """Return a local folder with the files of a job's result.

    Files that are there already are not downloaded again. Raises StepError `nothing_to_download`, `download_failed`.
    """
    from rich import progress
    from rich.console import Console

    response = connection.call("GET", f"/jobs/{job_id}/artifacts")
    artifacts = [ArtifactLink.model_validate(artifact) for artifact in response["artifacts"]]
    if not artifacts:
        message = f"job {job_id} has no files to download"
        raise StepError("nothing_to_download", message, hint=f"`gemtune watch {job_id}` shows when it is completed")
    folder = cache_folder() / FOLDER / job_id
    text = progress.TextColumn("{task.description}")
    columns = (text, progress.BarColumn(), progress.DownloadColumn(), progress.TransferSpeedColumn())
    with progress.Progress(*columns, console=Console(stderr=True), disable=connection.quiet) as bar:
        for artifact in artifacts:
            task = bar.add_task(artifact.name, total=artifact.bytes)
            try:
                download(artifact, folder, show=partial(_show, bar, task))
            except (BadDownload, Unreachable) as error:
                hint = "try it again: what was downloaded is kept"
                raise StepError("download_failed", str(error), hint=hint) from error
    return folder


def _show(bar: Progress, task: TaskID, size: int) -> None:
    """Show how much of a file is there."""
    bar.update(task, completed=size)
