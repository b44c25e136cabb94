"""Command `data check`."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, NoReturn

import click

from gemtune.bootstrap import services
from gemtune.checks.report import CheckReport
from gemtune.checks.task import CheckTask, LocalSource
from gemtune.cli.check import child, page, service
from gemtune.cli.check import request as check_request
from gemtune.cli.connection import REFUSED, Connection
from gemtune.cli.connection.text import echo_message
from gemtune.cli.request import options as train_options
from gemtune.cli.request.paths import FOLDER, HELD_OUT, STANDARD_INPUT, STANDARD_INPUT_NAME, check_filename, file_of
from gemtune.client import uploads
from gemtune.datasets.files import hub_dataset
from gemtune.datasets.files.kinds import kind_of
from gemtune.jobs.secret_names import REFERENCE
from gemtune.request.spec import TrainRequest
from gemtune.request.training_config import SAFE_NAME


@click.command()
@click.argument("source", metavar="ROWS")
@click.option("--eval", "held_out", type=HELD_OUT, help="File with the rows to evaluate on.")
@train_options.with_training_options
@click.option(
    "--filename",
    metavar="NAME",
    help=f"Name of rows on standard input, whose ending tells their kind (default: {STANDARD_INPUT_NAME}).",
)
@click.option("--samples", type=click.IntRange(0, 100), default=5, show_default=True, help="Rows to show as text.")
@click.option(
    "--output",
    type=FOLDER,
    help="Folder for the report and the list of rows that are not used (default: one below checks in GEMTUNE_HOME).",
)
@click.pass_obj
def check(
    connection: Connection,
    /,
    source: str,
    held_out: Path | None,
    filename: str | None,
    samples: int,
    output: Path | None,
    **options: Any,
) -> None:
    """Check rows without a job and without weights.

    ROWS is a file of rows, - for standard input, a folder, or a dataset of the Hub (hf://datasets/owner/name): these
    are checked on this machine, without a service. Or it is the id of a dataset that the service has, which then checks
    it. The report says what a training with the same options would make of every row. Exits with 0 if it would train,
    and with 1 if not.
    """
    on_service = source != STANDARD_INPUT and _is_dataset_id(source)
    on_hub = hub_dataset.parse(source) is not None
    check_filename(source, filename)
    if on_service and output is not None:
        raise click.UsageError("--output goes with rows that are checked here: the service keeps its own report")
    rows = None if on_service or on_hub else check_request.existing_rows(_opened(source, filename))
    if held_out is not None and (rows is None or rows.is_dir()):
        raise click.UsageError("--eval goes with a file of rows: a folder has its own file for evaluation")
    held_out = None if held_out is None else check_request.existing_rows(held_out)
    if held_out is not None and held_out.is_dir():
        raise click.UsageError(f"{held_out} is a folder, and --eval takes a file of rows")
    if options["model"] is None:
        raise click.UsageError(
            "say whose tokenizer and chat template to check with: --model ID (`gemtune models` lists some)"
        )
    content = train_options.request_of(options, {"processed_dataset_id": source} if on_hub else {})
    if rows is not None:
        uploads.check_columns(uploads.files_of(rows, held_out), content.get("dataset_columns"))
    place = source if rows is None or source == STANDARD_INPUT else str(rows.resolve())
    if on_service:
        source = connection.find_dataset(source)
        check_id, report = service.check(connection, source, content, samples=samples)
        if not connection.as_json and not connection.quiet:
            hint = f"`gemtune data rows {source} --check {check_id}` shows every token of the first rows"
            echo_message(f"check {check_id}: {hint}")
        _show(connection, report, check_id=check_id)
    request = check_request.read(content, rows).require_valid()
    task = CheckTask(
        spec=request.spec(),
        source=None if rows is None else _local_source(rows, held_out, is_input=source == STANDARD_INPUT),
        samples=samples,
        progress=True,
    )
    folder = (
        output.expanduser()
        if output is not None
        else services().settings.local_checks / _folder_name(filename or source, place)
    )
    cwd = rows.parent if rows is not None and source == STANDARD_INPUT else None
    _show(connection, child.run(task, folder, token=_token(request), quiet=connection.quiet, cwd=cwd))


def _opened(source: str, filename: str | None) -> Path:
    """Return the path of rows, for - that of a copy until the command ends."""
    if filename is None and source != STANDARD_INPUT:
        return Path(source).expanduser()
    return click.get_current_context().with_resource(file_of(Path(source), filename))


def _is_dataset_id(source: str) -> bool:
    """Return whether rows are named by the id of a dataset.

    A file or folder of that name comes first, and what ends as a file of rows is a file.
    """
    return re.fullmatch(SAFE_NAME, source) is not None and kind_of(source) is None and not Path(source).exists()


def _show(connection: Connection, report: CheckReport, *, check_id: str | None = None) -> NoReturn:
    """Print a report, and exit with its result.

    check_id: of a check by a service, which JSON names as well.
    """
    named = {} if check_id is None else {"check_id": check_id}
    if not connection.print_if_json(report.model_dump(mode="json") | named):
        for line in page.format_report(report, colours=page.has_colours()):
            click.echo(line)
    raise click.exceptions.Exit(0 if report.trains else REFUSED)


def _token(request: TrainRequest) -> str | None:
    """Return the Hub token of a request; None for that of the user."""
    token = request.secrets().get("hf_token")
    if token is not None and token.startswith(REFERENCE):
        return services().secrets.read(token.removeprefix(REFERENCE))
    return token


def _folder_name(source: str, place: str) -> str:
    """Return the name of the folder for the results of a check.

    It is the name of the file with a part of the hash of its whole path: files in two folders may have one name. place:
    that path; for what is no file, its name.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.rstrip("/").rpartition("/")[2]).lstrip(".-") or "rows"
    return f"{name[:100]}-{hashlib.sha256(place.encode(errors='surrogateescape')).hexdigest()[:8]}"


def _local_source(rows: Path, held_out: Path | None, *, is_input: bool) -> LocalSource:
    """Return where the rows are.

    is_input: whether they are a copy of standard input, whose folder nobody knows. Its process runs in that folder, so
    that reports show the name only.
    """
    own = rows.name if is_input else str(rows)
    return LocalSource(
        train=own, held_out=None if held_out is None else str(held_out.absolute() if is_input else held_out)
    )
