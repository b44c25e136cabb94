"""Downloads of files with progress."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from gemtune.cli.connection import Connection
from gemtune.cli.connection.text import is_redrawn
from gemtune.client.downloads import LinkedFile, download_to
from gemtune.client.errors import BadDownload, Unreachable


def download_all(connection: Connection, paths: Sequence[tuple[LinkedFile, Path]]) -> None:
    """Download files, each to its path.

    Prints an error and exits with the code 1 if a content is wrong or the disk fails, and 5 if the connection fails.
    """
    try:
        download_with_progress(connection, paths)
    except Unreachable as error:
        advice = "repeat the command to go on: what was downloaded is kept"
        raise click.exceptions.Exit(connection.report_outage(error, advice)) from None
    except BadDownload as error:
        raise connection.refuse(str(error), code="download_failed", hint=None) from None


def download_with_progress(connection: Connection, paths: Sequence[tuple[LinkedFile, Path]]) -> None:
    """Download files, each to its path, below a bar for all of them.

    Raises BadDownload, Unreachable, OSError.
    """
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    text = progress.TextColumn("{task.description}")
    columns = (text, progress.BarColumn(), progress.DownloadColumn(), progress.TransferSpeedColumn())
    is_hidden = connection.quiet or not is_redrawn(console) or not paths
    with progress.Progress(*columns, console=console, disable=is_hidden, transient=True) as bar:
        task = bar.add_task("", total=sum(linked.bytes for linked, _ in paths))
        done = 0
        for linked, path in paths:
            bar.update(task, description=linked.name)

            def show(size: int, before: int = done) -> None:
                bar.update(task, completed=before + size)

            download_to(linked, path, show=show)
            done += linked.bytes
