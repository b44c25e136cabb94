"""Files of a job of another machine, downloaded once into the cache."""

from __future__ import annotations

from pathlib import Path

from gemtune.cli.connection import Connection
from gemtune.cli.connection.downloading import download_with_progress
from gemtune.cli.connection.interrupts import DOWNLOAD_IS_KEPT, explaining_interrupt
from gemtune.client.downloads import path_in
from gemtune.client.errors import BadDownload, Unreachable
from gemtune.client.references import short_id
from gemtune.errors import StepError
from gemtune.handlers.answers import ArtifactLink
from gemtune.settings import cache_folder

FOLDER = "tried"


def fetch(connection: Connection, job_id: str) -> Path:
    """Return a local folder with the files of a job's result.

    Files that are there already are not downloaded again. Raises StepError `nothing_to_download`, `download_failed`.
    """
    response = connection.call("GET", f"/jobs/{job_id}/artifacts")
    artifacts = [ArtifactLink.model_validate(artifact) for artifact in response["artifacts"]]
    if not artifacts:
        message = f"job {job_id} has no files to download"
        hint = f"`gemtune watch {short_id(job_id)}` shows when it is completed"
        raise StepError("nothing_to_download", message, hint=hint)
    folder = cache_folder() / FOLDER / job_id
    try:
        with explaining_interrupt(DOWNLOAD_IS_KEPT):
            download_with_progress(connection, [(artifact, path_in(folder, artifact)) for artifact in artifacts])
    except (BadDownload, Unreachable) as error:
        raise StepError("download_failed", str(error), hint="try it again: what was downloaded is kept") from error
    return folder
