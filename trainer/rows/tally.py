"""Row counts of one split, with the errors and warnings that follow from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gemtune.errors import StepError
from gemtune.jobs.record import JobWarning
from trainer.rows.kinds import PreparedRow
from trainer.rows.prepared import histogram

# A larger share of refused rows fails the job: it is probably the wrong dataset.
MAX_REFUSED_SHARE = 0.1
MAX_REFUSED_SHOWN, REFUSED_NAMED = 100, 5


@dataclass
class Tally:
    """Counts of one split's rows.

    split: its name in messages. files: names of its files. max_length: tokens after which a row is truncated.
    readable: the base model's maximum number of positions, if its configuration says. lengths: number of rows by their
    tokens. cut_ends: rows without the end of any answer. longest_whole: tokens of the longest row before truncation.
    unjudged: by reward, the number of rows that it cannot judge. refused: file, number and reason of the first refused
    rows, for the report. samples: rows as text, for the report.
    """

    split: str
    files: Sequence[str]
    max_length: int
    readable: int | None = None
    lengths: Counter[int] = field(default_factory=Counter)
    kept_rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    truncated: int = 0
    cut_ends: int = 0
    longest_whole: int = 0
    unjudged: Counter[str] = field(default_factory=Counter)
    refused: list[dict[str, Any]] = field(default_factory=list)
    refused_rows: int = 0
    samples: list[list[dict[str, Any]]] = field(default_factory=list)

    @property
    def file(self) -> str:
        """Name of the split's file, or how many files it has."""
        return self.files[0] if len(self.files) == 1 else f"the {len(self.files)} files of the {self.split} split"

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    def add(self, row: PreparedRow) -> None:
        """Count a row that is used, in training or in evaluation."""
        self.kept_rows += 1
        self.lengths[row.tokens] += 1
        self.tokens += row.tokens
        self.trained_tokens += row.trained_tokens
        self.truncated += row.truncated
        self.cut_ends += row.end_is_cut
        self.longest_whole = max(self.longest_whole, row.whole_tokens)
        self.unjudged.update(row.unjudged_by)

    def refuse(self, file: str, number: int, reason: str) -> None:
        """Count a row that cannot be used. number: the row's, from 1."""
        self.refused_rows += 1
        if len(self.refused) < MAX_REFUSED_SHOWN:
            self.refused.append({"file": file, "row": number, "reason": reason})

    def check(self) -> None:
        """Raise StepError `empty_dataset`, or `bad_rows` if many are refused."""
        rows = self.kept_rows + self.refused_rows
        if rows == 0:
            raise StepError("empty_dataset", f"{self.file} has no rows", hint="put rows into it and submit again")
        if self.kept_rows == 0 or self.refused_rows > rows * MAX_REFUSED_SHARE:
            raise StepError("bad_rows", self._refused_message(), hint="correct these rows and submit again")

    def check_ends(self) -> None:
        """Raise StepError `ends_cut_off` if no row has the end of an answer."""
        if self.cut_ends == self.kept_rows:
            raise StepError("ends_cut_off", self._ends_message(), hint=self._ends_hint())

    def warnings(self) -> Iterator[JobWarning]:
        """Yield warnings about rows that are refused, cut or not judged."""
        if self.refused_rows:
            yield JobWarning(code="rows_refused", message=self._refused_message(), hint="report.json names these rows")
        if self.cut_ends:
            yield JobWarning(code="ends_cut_off", message=self._ends_message(), hint=self._ends_hint())
        for reward, rows in self.unjudged.items():
            message = (
                f"{rows} of {self.kept_rows} rows of {self.file} have an answer that is not one number: the reward "
                f"{reward} does not judge them, and only the other rewards do"
            )
            hint = "write the answer as one number, or set the reward's after to the text before it"
            yield JobWarning(code="rows_not_judged", message=message, hint=hint)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as report.json has them."""
        counted = {"kept": self.kept_rows, "refused": self.refused_rows, "truncated": self.truncated}
        lost = {"cut_ends": self.cut_ends, "not_judged": dict(self.unjudged)}
        tokens = {"tokens": self.tokens, "trained_tokens": self.trained_tokens}
        lengths = histogram(self.lengths) if self.kept_rows else None
        return counted | lost | tokens | {"tokens_a_row": lengths, "refused_rows": self.refused}

    def _refused_message(self) -> str:
        several = len(self.files) > 1
        first = "; ".join(
            f"row {entry['row']}{' of ' + entry['file'] if several else ''}: {entry['reason']}"
            for entry in self.refused[:REFUSED_NAMED]
        )
        return (
            f"{self.refused_rows} of {self.kept_rows + self.refused_rows} rows of {self.file} cannot be used: {first}"
        )

    def _ends_message(self) -> str:
        return (
            f"{self.cut_ends} of {self.kept_rows} rows of {self.file} are longer than {self.max_length} tokens and are "
            "cut before an answer ends: the model does not learn from them how to end its turn"
        )

    def _ends_hint(self) -> str:
        if self.readable is not None and self.longest_whole > self.readable:
            return f"shorten these rows: the longest has {self.longest_whole} tokens, the model reads {self.readable}"
        return f"raise max_seq_length to {self.longest_whole}, or shorten these rows"
