"""The command `artifacts`: lists and downloads the files of a job's result."""

from __future__ import annotations

from pathlib import Path

import click

from gemtune.cli.connection import REFUSED, UNREACHABLE, Connection
from gemtune.cli.connection.completing import job_argument
from gemtune.cli.request.paths import FOLDER
from gemtune.client.downloads import download
from gemtune.client.errors import BadDownload, Unreachable
from gemtune.handlers.answers import ArtifactLink


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

    Each downloaded file is checked against its SHA-256. Files that FOLDER already has are not downloaded again. Links
    expire after one hour.
    """
    response = connection.call("GET", f"/jobs/{connection.find_job(job)}/artifacts")
    if folder is not None:
        for artifact in response["artifacts"]:
            _download(ArtifactLink.model_validate(artifact), folder)
    if connection.print_if_json(response):
        return
    for artifact in response["artifacts"]:
        location = artifact["path"] or artifact["url"] if folder is None else folder / artifact["name"]
        click.echo(f"{artifact['bytes']:12}  {artifact['sha256']}  {location}")


def _download(artifact: ArtifactLink, folder: Path) -> None:
    """Download a file unless the folder has it.

    Ends the program with the exit code 1 if the content is wrong or the disk fails, and 5 if the connection fails.
    """
    try:
        download(artifact, folder)
    except Unreachable as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(UNREACHABLE) from None
    except BadDownload as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(REFUSED) from None
    except OSError as error:
        click.echo(f"{artifact.name}: {error}", err=True)
        raise click.exceptions.Exit(REFUSED) from None


COMMANDS = {"artifacts": artifacts}
