"""Commands for datasets: upload, list, show, rows, download, delete, check."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from gemtune.cli import dataset_files
from gemtune.cli.check.command import check
from gemtune.cli.connection import INTERRUPTED, Connection
from gemtune.cli.connection.completing import complete_datasets
from gemtune.cli.connection.groups import CommandGroup
from gemtune.cli.connection.interrupts import PARTS_ARE_KEPT, explain_interrupt
from gemtune.cli.connection.starting import confirm, confirm_option, offer_service
from gemtune.cli.connection.text import echo_columns, echo_message, is_redrawn, local_time
from gemtune.cli.request.paths import EXISTING_OR_INPUT, HELD_OUT, STANDARD_INPUT_NAME, file_of
from gemtune.client import references, uploads


@click.group(cls=CommandGroup)
def data() -> None:
    """Upload, check, list, show, download and delete datasets.

    DATASET is a dataset's id, the beginning of one, or the name of a dataset.
    """


@data.command()
@click.argument("source", metavar="FILE", type=EXISTING_OR_INPUT)
@click.option("--eval", "held_out", type=HELD_OUT, help="File with the rows to evaluate on.")
@click.option("--name", help="Name of the dataset (default: that of the file).")
@click.option("--tag", "tags", multiple=True, help="Word to find it by; may be repeated.")
@click.option(
    "--filename",
    metavar="NAME",
    help=f"Name of rows on standard input, whose ending tells their kind (default: {STANDARD_INPUT_NAME}).",
)
@click.pass_obj
def upload(
    connection: Connection,
    /,
    source: Path,
    held_out: Path | None,
    name: str | None,
    tags: tuple[str, ...],
    filename: str | None,
) -> None:
    """Upload a file of rows, or a folder, and print the id of the dataset.

    FILE may be - for standard input. The same files have the same id, and are sent only once. An upload that was
    interrupted goes on where it ended.
    """
    offer_service(connection)
    with file_of(source, filename) as path, showing_progress(connection) as report:
        files = uploads.files_of(path, held_out)
        dataset = connection.run(uploads.upload(files, name=name or path.resolve().name, tags=tags, report=report))
    if not connection.print_if_json(dataset.model_dump(mode="json")):
        click.echo(dataset.dataset_id)


@data.command("list")
@click.pass_obj
def list_(connection: Connection) -> None:
    """List all datasets."""
    datasets = connection.run(references.list_datasets())
    if connection.print_if_json({"datasets": [dataset.model_dump(mode="json") for dataset in datasets]}):
        return
    for dataset in datasets:
        size = sum(file.bytes for file in dataset.files)
        # Every folder is ready, and an upload has a name.
        unnamed = "(a folder of the data bucket)" if dataset.status == "ready" else "(its record cannot be read)"
        name = dataset.name or unnamed
        echo_columns([f"{dataset.dataset_id:28}", f"{dataset.status:9}", f"{size:12} bytes", name])
    if not datasets and not connection.quiet:
        echo_message("There are no datasets. `gemtune data upload FILE` makes one.")


@data.command()
@click.argument("dataset_id", metavar="DATASET", shell_complete=complete_datasets)
@click.pass_obj
def show(connection: Connection, dataset_id: str) -> None:
    """Show a dataset and its files."""
    dataset_id = connection.find_dataset(dataset_id)
    dataset = connection.call("GET", f"/datasets/{dataset_id}")
    if connection.print_if_json(dataset):
        return
    for name in ("dataset_id", "name", "status", "created_at"):
        if dataset[name] is not None:
            value = local_time(dataset[name]) if name == "created_at" else dataset[name]
            click.echo(f"{name + ':':14}{value}")
    if dataset["tags"]:
        click.echo(f"{'tags:':14}{', '.join(dataset['tags'])}")
    for file in dataset["files"]:
        click.echo(f"{file['bytes']:12}  {file['path']}")


@data.command()
@click.argument("dataset_id", metavar="DATASET", shell_complete=complete_datasets)
@confirm_option
@click.pass_obj
def delete(connection: Connection, dataset_id: str, yes: bool) -> None:
    """Delete a dataset that no unfinished job uses."""
    dataset_id = connection.find_dataset(dataset_id)
    confirm(f"Delete dataset {dataset_id} with its files?", yes=yes)
    answer = connection.call("DELETE", f"/datasets/{dataset_id}")
    if not connection.print_if_json(answer):
        click.echo(f"Deleted dataset {dataset_id}")


@data.command()
@click.argument("dataset_id", metavar="DATASET", shell_complete=complete_datasets)
@click.option(
    "--split",
    type=click.Choice(["train", "held_out"], case_sensitive=False),
    help="Split of the dataset (default: train).",
)
@click.option(
    "--limit", "-n", type=click.IntRange(1, 200), default=20, show_default=True, help="Maximum number of rows."
)
@click.option("--after", help="Go on where a page ended: its `next_after`.")
@click.option("--check", "check_id", help="Check that read the rows: print their text and tokens as well.")
@click.pass_obj
def rows(connection: Connection, /, dataset_id: str, **options: Any) -> None:
    """Print rows of a dataset as JSON, one per line."""
    dataset_id = connection.find_dataset(dataset_id)
    params = {name: value for name, value in options.items() if value is not None}
    page = connection.call("GET", f"/datasets/{dataset_id}/rows", params=params)
    if connection.print_if_json(page):
        return
    for row in page["rows"]:
        shown = row["content"] if options["check_id"] is None and row["reason"] is None else row
        click.echo(json.dumps(shown, ensure_ascii=False))
    if not page["rows"] and options["after"] is None and not connection.quiet:
        echo_message(f"Dataset {dataset_id} has no rows in the split {options['split'] or 'train'}")
    if page["next_after"] is not None and not connection.quiet:
        echo_message(f"There are more rows: --after {page['next_after']}")


@data.command()
@click.argument("dataset_id", metavar="DATASET", shell_complete=complete_datasets)
@click.option("--output", "-o", metavar="PATH", help="Where to write: a file, or a folder; - is standard output.")
@click.option("--force", is_flag=True, help="Replace files that have another content.")
@click.pass_obj
def download(connection: Connection, dataset_id: str, output: str | None, force: bool) -> None:
    """Download a dataset as it was uploaded.

    The file of a dataset that has one goes to PATH, or into PATH if that is a folder or ends with a slash; several
    files go into the folder PATH, which is created. Without PATH, the current folder gets a file or a folder with the
    name of the dataset. Each file is checked against its SHA-256, and those that are there already are not downloaded
    again.
    """
    dataset_files.download(connection, connection.find_dataset(dataset_id), output, force=force)


@contextmanager
def showing_progress(connection: Connection, *, keeps_parts: bool = True) -> Iterator[uploads.Report]:
    """Yield a function that shows how many parts are sent.

    keeps_parts: whether an interrupted upload goes on where it ended, which is then said.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=connection.quiet or not is_redrawn(console))
    task = bar.add_task("uploading")
    has_sent = False

    def report(sent: int, total: int) -> None:
        nonlocal has_sent
        has_sent |= sent > 0
        if sent < total:
            bar.start()  # again and again does no harm
        bar.update(task, completed=sent, total=total)

    try:
        yield report
    except KeyboardInterrupt:
        if not (has_sent and keeps_parts):
            raise
        bar.live.stop()
        explain_interrupt(PARTS_ARE_KEPT)
        raise click.exceptions.Exit(INTERRUPTED) from None
    finally:
        bar.live.stop()


data.add_command(check)

COMMANDS = {"data": data}
