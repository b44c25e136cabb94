"""Record of a check, and the names of its objects.

data bucket:   datasets/checks/<dataset>/<check>.json   the record, which the service writes
export bucket: checks/<dataset>/<check>/                what the trainer writes, the report last
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from gemtune.checks.task import CheckTask

RECORDS = "datasets/checks/"


class CheckSummary(BaseModel):
    """Part of a check's record that is shown, and that any version can read.

    The task of a newer version may have fields that this one does not know.
    """

    model_config = ConfigDict(frozen=True)

    check_id: str
    dataset_id: str
    created_at: datetime


class CheckRecord(CheckSummary):
    """Record of a check.

    hf_token: name of the secret with the token for the Hub, if there is one.
    """

    task: CheckTask
    hf_token: str | None = None


def records_folder(dataset_id: str) -> str:
    """Return the prefix of the records of a dataset's checks."""
    return f"{RECORDS}{dataset_id}/"


def record_name(dataset_id: str, check_id: str) -> str:
    """Return the name of the object with the record of a check."""
    return f"{records_folder(dataset_id)}{check_id}.json"


def results_folder(dataset_id: str, check_id: str | None = None) -> str:
    """Return the prefix of the results of a check, or of all of a dataset."""
    return f"checks/{dataset_id}/" + ("" if check_id is None else f"{check_id}/")
