"""`python -m trainer check FOLDER`: runs the check that a folder describes.

Exit codes: 0 if the dataset can be trained on; 1 if not, for the reason in the report; any other code is a crash.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from gemtune.checks.task import REPORT, TASK, CheckTask
from gemtune.ports import Buckets
from trainer.check.run import Check, run

TRAINS, DOES_NOT_TRAIN = 0, 1


def main(arguments: Sequence[str]) -> int:
    """Run the check, and write its report beside its task."""
    parser = argparse.ArgumentParser(prog="python -m trainer check", description="Check a dataset without a job.")
    parser.add_argument("folder", type=Path, help=f"folder with {TASK}, which gets {REPORT}")
    folder: Path = parser.parse_args(arguments).folder
    task = CheckTask.model_validate_json((folder / TASK).read_bytes())
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        report = run(Check(task, folder, work, lambda name: str(folder / name), _buckets, _own_token))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    (folder / REPORT).write_text(report.model_dump_json(indent=1), encoding="utf-8")
    return TRAINS if report.trains else DOES_NOT_TRAIN


def _buckets() -> Buckets:
    """Return the buckets of the configured backend."""
    from gemtune.bootstrap import services

    return services().buckets


def _own_token() -> str | None:
    """Return the token of the user who is logged in to the Hub here."""
    from huggingface_hub import get_token

    return get_token()
