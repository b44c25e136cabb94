"""The command `artifacts`: lists and downloads the files of a job's result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gemtune.cli.connection import REFUSED, UNREACHABLE, Connection
from gemtune.cli.connection.completing import job_argument
from gemtune.object_name import is_safe

BLOCK_BYTES = 1024 * 1024
# Number of attempts to download a file; each begins from the start.
ATTEMPTS = 3


class BadDownload(Exception):
    """Raised if a download differs from the job's record or is rejected."""


@click.command()
@job_argument
@click.option(
    "--download",
    "folder",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
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
            _download(artifact, folder)
    if connection.print_if_json(response):
        return
    for artifact in response["artifacts"]:
        location = artifact["path"] or artifact["url"] if folder is None else folder / artifact["name"]
        click.echo(f"{artifact['bytes']:12}  {artifact['sha256']}  {location}")


def _download(artifact: dict[str, Any], folder: Path) -> None:
    """Download a file unless the folder has it.

    Ends the program with the exit code 1 if the content is wrong or the disk fails, and 5 if the connection fails.
    """
    import httpx2

    name = artifact["name"]
    if not is_safe(name):
        raise click.UsageError(f"{name!r} is not a valid file name")
    final = folder / name
    if final.is_file() and _sha256(final) == artifact["sha256"]:
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = final.with_name(final.name + ".unfinished")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _write_verified(artifact, unfinished)
            unfinished.replace(final)
            return
        except (BadDownload, OSError) as error:
            unfinished.unlink(missing_ok=True)
            click.echo(f"{name}: {error}", err=True)
            raise click.exceptions.Exit(REFUSED) from None
        except httpx2.TransportError as error:
            unfinished.unlink(missing_ok=True)
            if attempt == ATTEMPTS:
                click.echo(f"{name}: {error}", err=True)
                raise click.exceptions.Exit(UNREACHABLE) from None


def _write_verified(artifact: dict[str, Any], path: Path) -> None:
    """Write an artifact's content to a file.

    Raises BadDownload if its SHA-256 is wrong.
    """
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in _blocks(artifact):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != artifact["sha256"]:
        raise BadDownload("the SHA-256 of the download differs from the job's record")


def _blocks(artifact: dict[str, Any]) -> Iterator[bytes]:
    """Yield an artifact's content in blocks, from its local path or its URL."""
    import httpx2

    if artifact["url"] is None:
        with Path(artifact["path"]).open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
        return
    with httpx2.stream("GET", artifact["url"], timeout=60) as response:
        if not response.is_success:  # httpx's own error would show the link, which gives access for one hour
            raise BadDownload(f"the link answered with HTTP {response.status_code}")
        yield from response.iter_bytes(BLOCK_BYTES)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


COMMANDS = {"artifacts": artifacts}
