"""`python -m trainer check …`: runs a check.

With a folder, it runs the check whose task is there: the exit code is 0 if the dataset can be trained on, and 1 if not,
for the reason in the report. With a dataset and a check, it runs the check that the service recorded, stores the
results in the export bucket, and exits with 0. Any other code is a crash.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from gemtune.checks.record import CheckRecord, record_name, results_folder
from gemtune.checks.report import CheckReport
from gemtune.checks.row import rows_name
from gemtune.checks.task import REPORT, ROWS_LEFT_OUT, TASK, CheckTask
from gemtune.ports import Buckets
from trainer.check.rows_file import SPLITS
from trainer.check.run import Check, run

DONE, DOES_NOT_TRAIN = 0, 1
# Folder for everything that is not a result. Users choose the folder around it, where theirs may be called `work`.
WORK = ".gemtune-check"
# Mode of folders with rows.
PRIVATE = 0o700


def main(arguments: Sequence[str]) -> int:
    """Run a check, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer check", description="Check a dataset without a job.")
    parser.add_argument("folder", nargs="?", type=Path, help=f"folder with {TASK}, which gets {REPORT}")
    parser.add_argument("--dataset", help="dataset of a check that the service recorded")
    parser.add_argument("--check", help="id of that check")
    options = parser.parse_args(arguments)
    if options.folder is not None:
        return _run_in_folder(options.folder)
    if options.dataset is None or options.check is None:
        parser.error("name a folder, or a dataset and a check")
    _run_recorded(options.dataset, options.check)
    return DONE


def _run_in_folder(folder: Path) -> int:
    """Run the check of a folder, and write its report beside its task."""
    task = CheckTask.model_validate_json((folder / TASK).read_bytes())
    report = _run(task, folder, lambda name: str(folder / name), _own_token)
    return DONE if report.trains else DOES_NOT_TRAIN


def _run_recorded(dataset_id: str, check_id: str) -> None:
    """Run a check that the service recorded, and upload its results."""
    from gemtune.bootstrap import services

    backend = services()
    record = CheckRecord.model_validate_json(backend.buckets.data.read(record_name(dataset_id, check_id)))
    results, export = results_folder(dataset_id, check_id), backend.buckets.export
    folder = backend.settings.work_of_checks / check_id
    folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
    try:
        _run(
            record.task,
            folder,
            lambda name: export.uri(f"{results}{name}"),
            lambda: None if record.hf_token is None else backend.secrets.read(record.hf_token),
        )
        if backend.buckets.data.stat(record_name(dataset_id, check_id)) is None:
            return  # the dataset was deleted in the meantime
        for name in (*map(rows_name, SPLITS.values()), ROWS_LEFT_OUT, REPORT):
            if (folder / name).exists():
                export.upload(folder / name, f"{results}{name}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(task: CheckTask, folder: Path, place: Callable[[str], str], token: Callable[[], str | None]) -> CheckReport:
    """Run a check, and write its report to a folder."""
    work = folder / WORK
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=PRIVATE)
    try:
        report = run(Check(task, folder, work, place, _buckets, token))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    (folder / REPORT).write_text(report.model_dump_json(indent=1), encoding="utf-8")
    return report


def _buckets() -> Buckets:
    """Return the buckets of the configured backend."""
    from gemtune.bootstrap import services

    return services().buckets


def _own_token() -> str | None:
    """Return the token of the user who is logged in to the Hub here."""
    from huggingface_hub import get_token

    return get_token()
