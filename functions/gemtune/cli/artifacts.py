"""Shows the files of a job's result, and copies them here, each checked against its SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gemtune.cli.connection import REFUSED, UNREACHABLE, Connection
from gemtune.object_name import is_safe

BLOCK_BYTES = 1024 * 1024
# How often a file is asked for whose connection breaks; each time from its beginning.
TRIES = 3


class NotAsRecorded(Exception):
    """What came is not what the job recorded."""


@click.command()
@click.argument("job_id")
@click.option("--download", "folder", type=click.Path(file_okay=False, path_type=Path), help="Copy them into FOLDER.")
@click.pass_obj
def artifacts(connection: Connection, job_id: str, folder: Path | None) -> None:
    """Show the files of a job's result; links are good for an hour. What is in FOLDER already is not copied again."""
    answer = connection.call("GET", f"/jobs/{job_id}/artifacts")
    if folder is not None:
        for artifact in answer["artifacts"]:
            _copy(artifact, folder)
    if connection.show(answer):
        return
    for artifact in answer["artifacts"]:
        where = artifact["path"] or artifact["url"] if folder is None else folder / artifact["name"]
        click.echo(f"{artifact['bytes']:12}  {artifact['sha256']}  {where}")


def _copy(artifact: dict[str, Any], folder: Path) -> None:
    """Ends the program with 1 when what comes is not what was recorded, and with 5 when nothing comes."""
    import httpx2

    name = artifact["name"]
    if not is_safe(name):
        raise click.UsageError(f"{name!r} is no name for a file here")
    final = folder / name
    if final.is_file() and _sha256(final) == artifact["sha256"]:
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = final.with_name(final.name + ".unfinished")
    for attempt in range(1, TRIES + 1):
        try:
            _fetch(artifact, unfinished)
            unfinished.replace(final)
            return
        except (NotAsRecorded, OSError) as error:
            unfinished.unlink(missing_ok=True)
            click.echo(f"{name}: {error}", err=True)
            raise click.exceptions.Exit(REFUSED) from None
        except httpx2.TransportError as error:
            unfinished.unlink(missing_ok=True)
            if attempt == TRIES:
                click.echo(f"{name}: {error}", err=True)
                raise click.exceptions.Exit(UNREACHABLE) from None


def _fetch(artifact: dict[str, Any], path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in _blocks(artifact):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != artifact["sha256"]:
        raise NotAsRecorded("its SHA-256 is not the recorded one")


def _blocks(artifact: dict[str, Any]) -> Iterator[bytes]:
    import httpx2

    if artifact["url"] is None:
        with Path(artifact["path"]).open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
        return
    with httpx2.stream("GET", artifact["url"], timeout=60) as answer:
        if not answer.is_success:  # its own words would name the link, which is a key for an hour
            raise NotAsRecorded(f"the link answers {answer.status_code}")
        yield from answer.iter_bytes(BLOCK_BYTES)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


COMMANDS = {"artifacts": artifacts}
