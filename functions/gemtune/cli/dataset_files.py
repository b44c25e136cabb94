"""Download of the files of a dataset."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from gemtune.cli.connection import Connection
from gemtune.cli.connection.downloading import download_all
from gemtune.cli.connection.interrupts import DOWNLOAD_IS_KEPT, explaining_interrupt
from gemtune.client import operations
from gemtune.client.downloads import LinkedFile, is_there, path_in
from gemtune.datasets.files.kinds import kind_of
from gemtune.object_name import is_safe

STANDARD_OUTPUT = "-"


def download(connection: Connection, dataset_id: str, output: str | None, *, force: bool) -> None:
    """Download a dataset, and print the paths of its files.

    output: as the user gave it. force: replace files that have another content. Exits with 1 if there are some and they
    may not be replaced. Raises click.UsageError.
    """
    files = connection.run(operations.list_files(dataset_id))
    if output == STANDARD_OUTPUT:
        _write_out(connection, files)
        return
    name = _own_name(connection.call("GET", f"/datasets/{dataset_id}")["name"])
    paths = _paths(files, output, name or dataset_id)
    missing = [(file, path) for file, path in paths if not is_there(file, path)]
    _check_replaced(connection, [path for _, path in missing], force=force)
    with explaining_interrupt(DOWNLOAD_IS_KEPT):
        download_all(connection, missing)
    written = [{"name": file.name, "bytes": file.bytes, "path": str(path)} for file, path in paths]
    if not connection.print_if_json({"dataset_id": dataset_id, "files": written}):
        for _, path in paths:
            click.echo(path)


def _paths(files: Sequence[LinkedFile], output: str | None, name: str) -> list[tuple[LinkedFile, Path]]:
    """Return where to write each file.

    output: as the user gave it; a folder if it ends with a slash. name: of the dataset, for what has no other name.
    Raises click.UsageError, and BadUse for a name that leads out of its folder.
    """
    target = None if output is None else Path(output).expanduser()
    if len(files) == 1:
        kind = kind_of(files[0].name)
        ending = Path(files[0].name).suffix if kind is None else kind.suffix
        own = name if name.endswith(ending) else f"{name}{ending}"
        if output is None or target is None:
            return [(files[0], Path(own))]
        return [(files[0], target / own if target.is_dir() or output.endswith("/") else target)]
    folder = Path(name) if target is None else target
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"the dataset has {len(files)} files, and {folder} is not a folder")
    return [(file, path_in(folder, file)) for file in files]


def _own_name(name: str | None) -> str | None:
    """Return the name of a dataset if it can be that of a file."""
    return name if name is not None and "/" not in name and is_safe(name) else None


def _check_replaced(connection: Connection, paths: Sequence[Path], *, force: bool) -> None:
    """Exit with REFUSED if files are there that may not be replaced."""
    existing = [path for path in paths if path.exists()]
    if not existing or force:
        return
    names = ", ".join(map(str, existing[:10])) + (f" and {len(existing) - 10} more" if len(existing) > 10 else "")
    message = f"{names} {'has' if len(existing) == 1 else 'have'} another content"
    raise connection.refuse(message, code="file_exists", hint="--force replaces it; --output writes somewhere else")


def _write_out(connection: Connection, files: Sequence[LinkedFile]) -> None:
    """Write the only file of a dataset to standard output, once it is checked.

    Raises click.UsageError for several files.
    """
    if len(files) != 1:
        raise click.UsageError(f"the dataset has {len(files)} files, and standard output takes one: name a folder")
    with tempfile.TemporaryDirectory(prefix="gemtune-") as folder:
        path = Path(folder) / "file"
        download_all(connection, [(files[0], path)])
        with path.open("rb") as source:
            shutil.copyfileobj(source, sys.stdout.buffer)
    sys.stdout.buffer.flush()
