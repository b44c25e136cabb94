"""Upload of files as a dataset.

It is sent in parts, and goes on where it was interrupted.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from gemtune.cli.connection import UNREACHABLE, Connection, Unreachable
from gemtune.datasets.files.kinds import KINDS, kind_of

# Attempts for a part while the service is unreachable, and the seconds before the second one, doubled each time.
ATTEMPTS, FIRST_PAUSE_SECONDS = 6, 1.0


def files_of(data: Path, held_out: Path | None) -> dict[str, Path]:
    """Return the files of a dataset by their names in it.

    data: a file with the rows to train on, or a folder, whose files keep their names. held_out: a file with the rows
    to evaluate. Raises click.UsageError for a file that holds no rows.
    """
    if data.is_dir():
        if held_out is not None:
            raise click.UsageError("--eval goes with a file of rows: a folder has its own file for evaluation")
        paths = sorted(path for path in data.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(data)))
        if not paths:
            raise click.UsageError(f"{data} has no files")
        return {path.relative_to(data).as_posix(): path for path in paths}
    splits = {"train": data} | ({} if held_out is None else {"eval": held_out})
    return {f"{split}{_suffix(path)}": path for split, path in splits.items()}


def upload(
    connection: Connection,
    files: Mapping[str, Path],
    *,
    name: str,
    tags: tuple[str, ...] = (),
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Upload files as a dataset and return its description.

    Files that the service has already are not sent again.
    """
    announced = [{"path": path, "bytes": file.stat().st_size, "sha256": _sha256(file)} for path, file in files.items()]
    body = {"name": name, "tags": list(tags), "files": announced}
    dataset: dict[str, Any] = connection.call("POST", "/datasets", json=body)
    if dataset["status"] == "ready":
        return dataset
    part_bytes, dataset_id = dataset["part_bytes"], dataset["dataset_id"]
    missing = [(int(file), part) for file, parts in dataset["missing_parts"].items() for part in parts]
    paths = list(files.values())
    for file, part in _with_progress(connection, missing):
        with paths[file].open("rb") as source:
            source.seek(part * part_bytes)
            content = source.read(part_bytes)
        _send(connection, dataset_id, file, part, content, sleep)
    completed: dict[str, Any] = connection.call("POST", f"/datasets/{dataset_id}/complete")
    return completed


def _send(
    connection: Connection, dataset_id: str, file: int, part: int, content: bytes, sleep: Callable[[float], None]
) -> None:
    """Send one part, again while the service is unreachable.

    Exits with UNREACHABLE after ATTEMPTS.
    """
    for attempt in range(ATTEMPTS):
        try:
            path = f"/datasets/{dataset_id}/parts"
            connection.ask("PUT", path, params={"file": file, "part": part}, content=content)
            return
        except Unreachable as error:
            if attempt + 1 == ATTEMPTS:
                click.echo(f"{error}\nrepeat the command to go on: the parts so far are kept", err=True)
                raise click.exceptions.Exit(UNREACHABLE) from None
            sleep(FIRST_PAUSE_SECONDS * 2**attempt)


def _with_progress(connection: Connection, parts: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the parts to send, with a progress bar in a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if connection.quiet or not console.is_terminal:
        yield from parts
        return
    yield from track(parts, "uploading", console=console)


def _suffix(path: Path) -> str:
    """Return the ending of a file with rows.

    Raises click.UsageError if it has none of the known ones.
    """
    kind = kind_of(path.name)
    if not path.is_file():
        raise click.UsageError(f"there is no file {path}")
    if kind is None:
        raise click.UsageError(f"{path} holds no rows: the name ends in none of {', '.join(k.suffix for k in KINDS)}")
    return kind.suffix


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
