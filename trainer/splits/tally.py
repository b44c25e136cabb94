"""Row counts of one split, and the errors that follow from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gemtune.datasets.refusal import Refused, TooLong
from gemtune.errors import StepError
from gemtune.request.training_config import TooLongOption
from trainer.rows.kinds import PreparedRow
from trainer.rows.prepared import histogram
from trainer.splits.kept_rows import KeptRows
from trainer.splits.left_out import LeftOutRows

# A larger share of refused rows fails the job: it is probably the wrong dataset.
MAX_REFUSED_SHARE = 0.1
MAX_REFUSED_SHOWN, REFUSED_NAMED = 100, 5
SAMPLES = 3
# Names of fields that are counted one by one.
MAX_FIELDS, OTHER_FIELDS = 1000, "(others)"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a row's length.

    max_length: tokens that a row may have. readable: the base model's maximum number of positions, if its configuration
    says. too_long: what happens to longer rows.
    """

    max_length: int
    readable: int | None = None
    too_long: TooLongOption = "drop"

    def fitting(self, longest: int) -> str:
        """Return what to do about rows of up to `longest` tokens."""
        if self.readable is not None and longest > self.readable:
            return f"shorten these rows: the longest has {longest} tokens, the model reads {self.readable}"
        return f"raise max_seq_length to {longest}, or shorten these rows"


@dataclass
class Tally:
    """Counts of one split's rows.

    split: its name. files: names of its files. left_out: names all rows that are not used. lengths: number of rows by
    their tokens. truncated: rows that are cut. cut_ends: rows without the end of any answer. longest_whole: tokens of
    the longest row before truncation. unjudged: by reward, the number of rows that it cannot judge. unread_fields: by
    name, the number of rows with a field that cannot change what is learned. formats: number of rows by their format.
    trained_whole: rows of which every token is trained. refused, dropped: the first rows that
    cannot be used, and that are too long. samples: the first rows as text, up to `wanted_samples`.
    """

    split: str
    files: Sequence[str]
    limits: Limits
    left_out: LeftOutRows
    wanted_samples: int = SAMPLES
    rows: KeptRows = field(default_factory=KeptRows)
    lengths: Counter[int] = field(default_factory=Counter)
    tokens: int = 0
    trained_tokens: int = 0
    truncated: int = 0
    cut_ends: int = 0
    longest_whole: int = 0
    unjudged: Counter[str] = field(default_factory=Counter)
    unread_fields: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    trained_whole: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    refused_rows: int = 0
    dropped: list[dict[str, Any]] = field(default_factory=list)
    dropped_rows: int = 0
    samples: list[list[dict[str, Any]]] = field(default_factory=list)

    @property
    def kept_rows(self) -> int:
        """Number of rows that are used, in training or in evaluation."""
        return len(self.rows)

    @property
    def all_rows(self) -> int:
        """Number of rows in the split's files."""
        return self.kept_rows + self.refused_rows + self.dropped_rows

    @property
    def named(self) -> str:
        """Name of the split's file, or how many files it has."""
        return self.files[0] if len(self.files) == 1 else f"the {len(self.files)} files of the {self.split} split"

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    def add(self, file: int, number: int, row: PreparedRow, columns: Mapping[str, Any]) -> None:
        """Count a row that is used.

        file: index of its file. columns: those of the row, whose lists may be arrays of numbers.
        """
        trained_tokens = row.trained_tokens
        self.rows.add(file, number, columns, tokens=row.tokens, trained_tokens=trained_tokens)
        self.lengths[row.tokens] += 1
        self.tokens += row.tokens
        self.trained_tokens += trained_tokens
        self.truncated += row.truncated
        self.cut_ends += row.end_is_cut
        self.longest_whole = max(self.longest_whole, row.whole_tokens)
        for reward in row.unjudged_by:
            self.unjudged[reward] += 1
        self.formats[row.format] += 1
        self.trained_whole += trained_tokens == row.tokens
        for name in row.unread_fields:
            has_own_count = name in self.unread_fields or len(self.unread_fields) < MAX_FIELDS
            self.unread_fields[name if has_own_count else OTHER_FIELDS] += 1

    def leave_out(self, file: int, number: int, refused: Refused) -> None:
        """Count a row that is not used. file: index of its file."""
        too_long = isinstance(refused, TooLong)
        self.left_out.add(self.split, self.files[file], number, "too_long" if too_long else "refused", refused.reason)
        shown = {"file": self.files[file], "row": number, "reason": refused.reason}
        if isinstance(refused, TooLong):
            self.longest_whole = max(self.longest_whole, refused.tokens)
            self.dropped_rows += 1
            self.dropped += [shown] if len(self.dropped) < MAX_REFUSED_SHOWN else []
        else:
            self.refused_rows += 1
            self.refused += [shown] if len(self.refused) < MAX_REFUSED_SHOWN else []

    def check(self) -> None:
        """Raise StepError if the split has no rows, or too many are left out.

        Codes: `empty_dataset`, `bad_rows`, `rows_too_long`.
        """
        if self.all_rows == 0:
            raise StepError("empty_dataset", f"{self.named} has no rows", hint="put rows into it")
        if self.refused_rows > self.all_rows * MAX_REFUSED_SHARE:
            raise StepError("bad_rows", self.refused_message(), hint="correct these rows, or say how to read them")
        if self.dropped_rows and (self.limits.too_long == "refuse" or self.kept_rows == 0):
            message = f"{self.dropped_message()}: {self._first(self.dropped)}"
            raise StepError("rows_too_long", message, hint=self._hint_of_long_rows())

    def check_ends(self) -> None:
        """Raise StepError `ends_cut_off` if no row has the end of an answer."""
        if self.cut_ends == self.kept_rows:
            raise StepError("ends_cut_off", self.ends_message(), hint=self.limits.fitting(self.longest_whole))

    def to_json(self) -> dict[str, Any]:
        """Return the counts as report.json has them."""
        counted = {"kept": self.kept_rows, "refused": self.refused_rows, "dropped": self.dropped_rows}
        cut = {"truncated": self.truncated, "cut_ends": self.cut_ends, "not_judged": dict(self.unjudged)}
        tokens = {"tokens": self.tokens, "trained_tokens": self.trained_tokens, "longest": self.longest_whole}
        tokens |= {"rows_trained_whole": self.trained_whole}
        lengths = histogram(self.lengths) if self.kept_rows else None
        fields = {"formats": dict(self.formats), "fields_not_read": dict(sorted(self.unread_fields.items()))}
        rows = {"tokens_a_row": lengths, "refused_rows": self.refused, "dropped_rows": self.dropped}
        return {"files": list(self.files)} | counted | cut | tokens | fields | rows

    def refused_message(self) -> str:
        """Return how many rows cannot be used, and the first of them."""
        return (
            f"{self.refused_rows} of {self.all_rows} rows of {self.named} cannot be used: {self._first(self.refused)}"
        )

    def dropped_message(self) -> str:
        """Return how many rows are too long."""
        return (
            f"{self.dropped_rows} of {self.all_rows} rows of {self.named} have more tokens than max_seq_length "
            f"({self.limits.max_length})"
        )

    def ends_message(self) -> str:
        """Return how many rows lose the end of their answers."""
        return (
            f"{self.cut_ends} of {self.kept_rows} rows of {self.named} are longer than {self.limits.max_length} tokens "
            "and are cut before an answer ends: the model does not learn from them how to end its turn"
        )

    def place_of(self, index: int) -> str:
        """Return where a kept row is, for messages."""
        file, number = self.rows.origin(index)
        return self._place(self.files[file], number)

    def _place(self, file: str, number: int) -> str:
        return f"row {number}" if len(self.files) == 1 else f"row {number} of {file}"

    def _first(self, rows: Sequence[dict[str, Any]]) -> str:
        places: dict[str, list[str]] = {}  # by reason, which often is the same
        for row in rows[:REFUSED_NAMED]:
            places.setdefault(row["reason"], []).append(self._place(row["file"], row["row"]))
        return "; ".join(f"{', '.join(of_rows)}: {reason}" for reason, of_rows in places.items())

    def _hint_of_long_rows(self) -> str:
        others = ", or set too_long to drop or cut" if self.limits.too_long == "refuse" else ""
        return f"{self.limits.fitting(self.longest_whole)}{others}"
