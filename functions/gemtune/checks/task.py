"""Task of a check, which the service or the command line hands to the trainer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from gemtune.request.spec import Spec

# Names of the files of a check in its folder.
TASK, REPORT, ROWS_LEFT_OUT = "task.json", "report.json", "rows_left_out.jsonl"


class LocalSource(BaseModel):
    """Rows on this machine that were not uploaded.

    train: a file of rows, or a folder with the files of a dataset. held_out: file with the rows to evaluate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: str
    held_out: str | None = None


class CheckTask(BaseModel):
    """Rows to check, and the configuration to check them for.

    spec: configuration of the job that would train; it names the dataset, unless there is a local source. samples: rows
    to show. store_rows: write the first rows of each split to files, with their tokens. progress: write the number of
    rows so far to standard output.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: Spec
    source: LocalSource | None = None
    samples: int = 5
    store_rows: bool = False
    progress: bool = False
