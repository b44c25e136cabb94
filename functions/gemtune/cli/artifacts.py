"""The command `artifacts`: lists and downloads the files of a job's result."""

from __future__ import annotations

from pathlib import Path

import click

from gemtune.cli.connection import Connection
from gemtune.cli.connection.completing import job_argument
from gemtune.cli.connection.interrupts import DOWNLOAD_IS_KEPT, explaining_interrupt
from gemtune.cli.connection.text import echo_columns
from gemtune.cli.request.paths import FOLDER


@click.command()
@job_argument
@click.option(
    "--download",
    "folder",
    metavar="FOLDER",
    type=FOLDER,
    help="Download the files to FOLDER.",
)
@click.pass_obj
def artifacts(connection: Connection, job: str, folder: Path | None) -> None:
    """List or download the files of a job's result.

    Each downloaded file is checked against its SHA-256. Files that FOLDER already has are not downloaded again, and an
    interrupted download goes on where it ended. Links expire after one hour.
    """
    response = connection.call("GET", f"/jobs/{connection.find_job(job)}/artifacts")
    if folder is not None:
        from gemtune.cli.connection.downloading import download_all  # imports all answers of the API
        from gemtune.client.downloads import path_in
        from gemtune.handlers.answers import ArtifactLink

        links = [ArtifactLink.model_validate(artifact) for artifact in response["artifacts"]]
        with explaining_interrupt(DOWNLOAD_IS_KEPT):
            download_all(connection, [(link, path_in(folder, link)) for link in links])
    if connection.print_if_json(response):
        return
    for artifact in response["artifacts"]:
        location = artifact["path"] or artifact["url"] if folder is None else folder / artifact["name"]
        echo_columns([f"{artifact['bytes']:12}", artifact["sha256"], str(location)])


COMMANDS = {"artifacts": artifacts}
