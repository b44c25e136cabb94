"""Check of a dataset: tokenize it as prepare does, and report on every row."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemtune.checks.report import (
    CheckError,
    CheckReport,
    ColumnCheck,
    Lengths,
    NearDuplicates,
    RowLeftOut,
    SamplePiece,
    SplitCheck,
)
from gemtune.checks.task import ROWS_LEFT_OUT, CheckTask
from gemtune.datasets.reading.fields import shown
from gemtune.datasets.refusal import Refused
from gemtune.errors import StepError
from gemtune.ports import Buckets
from gemtune.request.spec import Spec
from trainer.check import base_model_files, local_files, near_duplicates
from trainer.check.near_duplicates import Place
from trainer.check.rows_file import RowsFile
from trainer.dataset import source
from trainer.dataset.source import Dataset
from trainer.rows.encoder import Encoder
from trainer.rows.kinds import PreparedRow, RowKind
from trainer.rows.prepared import histogram
from trainer.splits import tokenizing
from trainer.splits.report import Report
from trainer.splits.tally import Tally
from trainer.splits.tokenizing import Amounts, Tokenization, Tokenized
from trainer.splits.writer import WatchRow

MAX_COLUMNS = 1000
# Characters of a part of a sample: a row may have a megabyte, and the report is read as a whole.
MAX_CHARACTERS = 4000
# Seconds between two messages about progress.
PROGRESS_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Check:
    """A check to run.

    output: folder for rows_left_out.jsonl and the files with the first rows. work: empty folder for everything else.
    place: returns where a file of the output will be, for users. token: returns the token for the Hub.
    """

    task: CheckTask
    output: Path
    work: Path
    place: Callable[[str], str]
    buckets: Callable[[], Buckets]
    token: Callable[[], str | None]


def run(check: Check) -> CheckReport:
    """Return the report of a check.

    Everything that is wrong with the dataset or the base model is in the report. Errors that may go away by themselves
    propagate.
    """
    config = check.task.spec.training_config
    watcher = Watcher(check)
    try:
        dataset = _find_dataset(check)
        folder = base_model_files.locate(config.base_model_id, check.buckets, check.work, token=check.token)
        rows = Tokenization(check.task.spec, dataset, folder, check.work, check.work, check.place, lambda: None)
        tokenized = tokenizing.tokenize(rows, watcher.watch_with, samples=check.task.samples)
        (check.work / ROWS_LEFT_OUT).replace(check.output / ROWS_LEFT_OUT)
    except StepError as error:
        return CheckReport(trains=False, error=_error(error), base_model_id=config.base_model_id, method=config.method)
    try:
        amounts = tokenizing.hold_out_and_count(tokenized, config, check.work)
    except StepError as error:
        return _report(check, tokenized, watcher, None, _error(error))
    return _report(check, tokenized, watcher, amounts, None)


class Watcher:
    """Counter of the fields of all rows, which also stores the first rows.

    columns: rows with each field, by split. used: names of fields in rows that are used, by split.
    """

    def __init__(self, check: Check):
        self.columns: dict[str, Counter[str]] = {}
        self.used: dict[str, set[str]] = {}
        self._check, self._rows, self._written_at = check, 0, time.monotonic()
        self._file: RowsFile | None = None

    def watch_with(self, kind: RowKind, encoder: Encoder) -> WatchRow:
        """Return the function to call with every row."""
        if self._check.task.store_rows:
            self._file = RowsFile(self._check.output, kind, encoder)
        return self._watch

    def _watch(
        self, split: str, file: str, number: int, row: dict[str, Any] | Refused, prepared: PreparedRow | Refused
    ) -> None:
        """Count the fields of a row."""
        columns = self.columns.setdefault(split, Counter())
        if isinstance(row, dict):
            names = [name for name, value in row.items() if value is not None]
            for name in names:
                if name in columns or len(columns) < MAX_COLUMNS:
                    columns[name] += 1
            if not isinstance(prepared, Refused):
                self.used.setdefault(split, set()).update(name for name in names if name in columns)
        if self._file is not None:
            self._file.add(split, file, number, row, prepared)
        self._rows += 1
        if self._check.task.progress and time.monotonic() >= self._written_at + PROGRESS_SECONDS:
            self._written_at = time.monotonic()
            print(f"{self._rows:,}", flush=True)


def _find_dataset(check: Check) -> Dataset:
    """Return the dataset, local or by its id. Raises StepError."""
    local, dataset_id = check.task.source, check.task.spec.processed_dataset_id
    if local is not None:
        return local_files.find(local)
    return source.find(check.buckets().data, dataset_id, check.work, token=check.token)


def _report(
    check: Check, tokenized: Tokenized, watcher: Watcher, amounts: Amounts | None, error: CheckError | None
) -> CheckReport:
    """Return the report of rows that were tokenized."""
    report, spec = tokenized.report, check.task.spec
    config = spec.training_config
    report.others = () if amounts is None else amounts.warnings
    return CheckReport(
        trains=error is None,
        error=error,
        warnings=report.warnings,
        base_model_id=config.base_model_id,
        method=config.method,
        max_seq_length=tokenized.max_length,
        chat_template=tokenized.chat_template,
        rows=report.summary().model_copy(update={"report": None}),
        train=_split(report.train, watcher, spec),
        held_out=None if report.held_out is None else _split(report.held_out, watcher, spec),
        near_duplicates=None if amounts is None else _near_duplicates(report, check.work),
        workload=None if amounts is None else tokenizing.workload_of(config, report, amounts),
        packs=amounts.packed if amounts is not None and config.packing else None,
        samples=[[_piece(piece) for piece in sample] for sample in report.train.samples],
        rows_left_out=report.left_out_place,
    )


def _near_duplicates(report: Report, tokens: Path) -> NearDuplicates | None:
    """Compare the held-out rows with the others; None without held-out rows."""
    if not report.eval_rows:
        return None
    if report.held_out is None:
        trained = [index for index in range(len(report.train.rows)) if index not in report.moved]
        train = Place(lambda row: report.train.place_of(trained[row]))
        moved = sorted(report.moved)
        held_out = Place(lambda row: report.train.place_of(moved[row]))
    else:
        train = Place(report.train.place_of)
        held_out = Place(report.held_out.place_of, frozenset(report.held_out.rows.also_in(report.train.rows)))
    return near_duplicates.find(tokens / "train.parquet", train, tokens / "eval.parquet", held_out)


def _split(tally: Tally, watcher: Watcher, spec: Spec) -> SplitCheck:
    """Return the counts of a split."""
    counts = tally.to_json()
    own_names = {column: name for name, column in spec.dataset_columns.items() if column is not None}
    # A mapped column is read in rows that are refused for another reason as well.
    read = (watcher.used.get(tally.split, set()) | own_names.keys()) - spec.read_options.ignored
    return SplitCheck(
        files=tally.files,
        used=tally.kept_rows,
        refused=tally.refused_rows,
        dropped=tally.dropped_rows,
        truncated=tally.truncated,
        cut_ends=tally.cut_ends,
        tokens=tally.tokens,
        trained_tokens=tally.trained_tokens,
        formats=tally.formats,
        columns=[
            ColumnCheck(
                name=shown(name),
                rows=rows,
                read_as=own_names.get(name, name) if name in read and not tally.unread_fields[name] else None,
            )
            for name, rows in watcher.columns.get(tally.split, Counter[str]()).most_common()
        ],
        lengths=Lengths.model_validate(histogram(tally.lengths)) if tally.lengths else None,
        refused_rows=[RowLeftOut.model_validate(row) for row in counts["refused_rows"]],
        dropped_rows=[RowLeftOut.model_validate(row) for row in counts["dropped_rows"]],
    )


def _piece(piece: Mapping[str, Any]) -> SamplePiece:
    """Return a part of a sample; the middle of a long one is left out."""
    text, half = str(piece["text"]), MAX_CHARACTERS // 2
    if len(text) > MAX_CHARACTERS:
        text = f"{text[:half]} …({len(text) - 2 * half} characters)… {text[-half:]}"
    return SamplePiece.model_validate({**piece, "text": text})


def _error(error: StepError) -> CheckError:
    return CheckError(code=error.code, message=error.message, hint=error.hint)
