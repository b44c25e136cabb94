"""The rows of one split, counted while they are prepared: what became of them, and what their owner has to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gemtune.errors import StepError
from gemtune.jobs.record import JobWarning
from trainer.rows.kinds import PreparedRow
from trainer.rows.prepared import histogram

# A dataset with a larger share of bad rows is not the one that its owner meant.
MAX_REFUSED_SHARE = 0.1
MAX_REFUSED_SHOWN, REFUSED_NAMED = 100, 5


@dataclass
class Tally:
    """Counts of one split's rows. `lengths` counts rows by their tokens, so it stays small.

    file: the split's name. max_length: tokens that a row may have; readable: those that the base model could read, as
    far as it says. cut_ends: rows that end before an answer does. longest_whole: tokens of the longest row, before it
    was cut. unjudged: by the name of a reward, rows that it cannot judge.
    """

    file: str
    max_length: int
    readable: int | None = None
    lengths: Counter[int] = field(default_factory=Counter)
    kept: int = 0
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
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    def add(self, row: PreparedRow) -> None:
        """Count a row that is trained on, or evaluated."""
        self.kept += 1
        self.lengths[row.tokens] += 1
        self.tokens += row.tokens
        self.trained_tokens += row.trained_tokens
        self.truncated += row.truncated
        self.cut_ends += row.end_is_cut
        self.longest_whole = max(self.longest_whole, row.whole_tokens)
        self.unjudged.update(row.unjudged_by)

    def refuse(self, number: int, reason: str) -> None:
        """Count a row that cannot be used. number: from 1, as the file has it."""
        self.refused_rows += 1
        if len(self.refused) < MAX_REFUSED_SHOWN:
            self.refused.append({"row": number, "reason": reason})

    def check(self) -> None:
        """Raises StepError `empty_dataset`, `bad_rows`, `ends_cut_off`."""
        rows = self.kept + self.refused_rows
        if rows == 0:
            raise StepError("empty_dataset", f"{self.file} has no rows", hint="put rows into it and submit again")
        if self.kept == 0 or self.refused_rows > rows * MAX_REFUSED_SHARE:
            raise StepError("bad_rows", self._of_refused(), hint="correct these rows and submit again")

    def check_ends(self) -> None:
        """Raises StepError `ends_cut_off` when no row has an end that could be learned."""
        if self.cut_ends == self.kept:
            raise StepError("ends_cut_off", self._of_ends(), hint=self._longer())

    def warnings(self) -> Iterator[JobWarning]:
        """Yield what is trained otherwise than the file has it."""
        if self.refused_rows:
            yield JobWarning(code="rows_refused", message=self._of_refused(), hint="report.json names these rows")
        if self.cut_ends:
            yield JobWarning(code="ends_cut_off", message=self._of_ends(), hint=self._longer())
        for reward, rows in self.unjudged.items():
            message = (
                f"{rows} of {self.kept} rows of {self.file} have an answer without a number: the reward {reward} does "
                "not judge them, and the other rewards alone do"
            )
            yield JobWarning(code="rows_not_judged", message=message, hint="write the answer as a number")

    def to_json(self) -> dict[str, Any]:
        """The counts, as report.json has them."""
        counted = {"kept": self.kept, "refused": self.refused_rows, "truncated": self.truncated}
        lost = {"cut_ends": self.cut_ends, "not_judged": dict(self.unjudged)}
        tokens = {"tokens": self.tokens, "trained_tokens": self.trained_tokens}
        lengths = histogram(self.lengths) if self.kept else None
        return counted | lost | tokens | {"tokens_a_row": lengths, "refused_rows": self.refused}

    def _of_refused(self) -> str:
        first = "; ".join(f"row {entry['row']}: {entry['reason']}" for entry in self.refused[:REFUSED_NAMED])
        return f"{self.refused_rows} of {self.kept + self.refused_rows} rows of {self.file} cannot be used: {first}"

    def _of_ends(self) -> str:
        return (
            f"{self.cut_ends} of {self.kept} rows of {self.file} are longer than {self.max_length} tokens and are cut "
            "before an answer ends: what is trained on them never ends a turn"
        )

    def _longer(self) -> str:
        if self.readable is not None and self.longest_whole > self.readable:
            return f"shorten these rows: the longest has {self.longest_whole} tokens, the model reads {self.readable}"
        return f"raise max_seq_length to {self.longest_whole}, or shorten these rows"
