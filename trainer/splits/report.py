"""Report of prepare: what became of every row and file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from gemtune.jobs.parts.results import JobWarning, RowsSummary, UnreadField
from trainer.dataset.source import Dataset
from trainer.splits import left_out, warnings
from trainer.splits.columns import NamedColumns
from trainer.splits.tally import Tally

NAME = "report.json"
# Files and fields named in the record, which has a limited size; report.json names all.
NAMED = 100


@dataclass
class Report:
    """Report of one attempt of prepare.

    place: returns where a file of the report is, for users. columns: those that the request names. media_read: files of
    the dataset that rows name. moved: indexes of the rows that were moved from the train split to the held-out one, if
    the dataset has none. others: warnings of the step about other things than the dataset.
    """

    place: Callable[[str], str]
    dataset: Dataset
    train: Tally
    held_out: Tally | None
    columns: NamedColumns
    media_read: Collection[str] = ()
    moved: set[int] = field(default_factory=set)
    others: Sequence[JobWarning] = ()

    def check(self) -> None:
        """Raise StepError if a split has no rows, or too few that can be used.

        Codes: `no_such_column`, `empty_dataset`, `bad_rows`, `rows_too_long`, `ends_cut_off`.
        """
        self.columns.check()
        for tally in (self.train, self.held_out):
            if tally is not None:
                tally.check()
        self.train.check_ends()

    @property
    def warnings(self) -> tuple[JobWarning, ...]:
        """Warnings about both splits, the files, and other things."""
        return (*self._warnings(), *self.others)

    @property
    def train_rows(self) -> int:
        """Number of rows to train on."""
        return self.train.kept_rows - len(self.moved)

    @property
    def eval_rows(self) -> int:
        """Number of rows to evaluate."""
        return len(self.moved) if self.held_out is None else self.held_out.kept_rows

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row of both splits."""
        return max(tally.longest for tally in (self.train, self.held_out) if tally is not None)

    @property
    def tokens(self) -> int:
        """Tokens of all rows of both splits."""
        return sum(tally.tokens for tally in (self.train, self.held_out) if tally is not None)

    @property
    def unexpected_files(self) -> list[str]:
        """Files that are not read and do not merely describe the dataset."""
        return [file for file in self.dataset.splits.unexpected if file not in self.media_read]

    def summary(self) -> RowsSummary:
        """Return what the job's record has of the report."""
        tokens, trained = self.train.rows.tokens_of(self.moved)
        tallies = [tally for tally in (self.train, self.held_out) if tally is not None]
        files = [file for tally in tallies for file in tally.files]
        fields = sum((tally.unread_fields for tally in tallies), Counter[str]())
        return RowsSummary(
            train=self.train_rows,
            held_out=self.eval_rows,
            tokens=self.train.tokens - tokens,
            trained_tokens=self.train.trained_tokens - trained,
            refused=sum(tally.refused_rows for tally in tallies),
            dropped=sum(tally.dropped_rows for tally in tallies),
            cut=sum(tally.truncated for tally in tallies),
            duplicates=len(self._repeats),
            held_out_duplicates=len(self._trained_too),
            fields_not_read=tuple(UnreadField(name=name, rows=rows) for name, rows in fields.most_common(NAMED)),
            files=tuple(files[:NAMED]),
            files_not_read=tuple(self.unexpected_files[:NAMED]),
            dataset_revision=self.dataset.folder.revision,
            report=self.place(NAME),
        )

    def write(self, folder: Path, summary: Mapping[str, Any]) -> None:
        """Write report.json. summary: facts of the whole step."""
        report = {**summary, "warnings": [warning.model_dump() for warning in self.warnings]}
        report |= {"train": self.train.to_json(), "eval": self.held_out.to_json() if self.held_out else None}
        report |= {"duplicates": len(self._repeats), "held_out_duplicates": len(self._trained_too)}
        unread = [file for file in self.dataset.splits.unread if file not in self.media_read]
        report |= {"files_not_read": unread, "dataset_revision": self.dataset.folder.revision}
        report["samples"] = self.train.samples
        (folder / NAME).write_text(json.dumps(report, indent=1, ensure_ascii=False))

    def write_failure(self, folder: Path, error: StepError) -> StepError:
        """Write the report of rows that cannot be trained on.

        Returns the error, which says where the report will be.
        """
        self.write(folder, {"error": {"code": error.code, "message": error.message, "hint": error.hint}})
        where = f"the report is {self.place(NAME)}"
        if error.code in ("bad_rows", "rows_too_long"):
            where = f"all of them are in {self.left_out_place}"
        return StepError(error.code, f"{error.message}; {where}", hint=error.hint)

    @property
    def left_out_place(self) -> str:
        """Place of the file that names all rows that are left out."""
        return self.place(left_out.NAME)

    @cached_property
    def _repeats(self) -> list[tuple[int, int]]:
        return self.train.rows.repeats()

    @cached_property
    def _trained_too(self) -> list[int]:
        return [] if self.held_out is None else self.held_out.rows.also_in(self.train.rows)

    def _warnings(self) -> Iterator[JobWarning]:
        for tally in (self.train, self.held_out):
            if tally is not None:
                yield from warnings.warnings_of(tally, self.left_out_place)
        splits = self.dataset.splits
        yield from warnings.other_row_count(self.train, splits.train_rows)
        if self.held_out is not None:
            yield from warnings.other_row_count(self.held_out, splits.held_out_rows)
        yield from warnings.repeated_rows(self.train, self._repeats)
        if self.held_out is not None:
            yield from warnings.held_out_and_trained(self.held_out, self._trained_too)
        yield from warnings.files_not_read(self.unexpected_files)
        yield from self.columns.warnings()
