"""Columns that a request names, looked for in all rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gemtune.datasets.formats import table
from gemtune.datasets.reading import advice
from gemtune.datasets.reading.fields import names_in, shown
from gemtune.datasets.refusal import Refused
from gemtune.datasets.rl import formats as rl_formats
from gemtune.errors import StepError
from gemtune.jobs.parts.results import JobWarning


class NamedColumns:
    """Columns that `dataset_columns` names, as far as no row had them yet.

    A field that is read from such a column would be read from nowhere.
    """

    def __init__(self, columns: Mapping[str, str | None]):
        """Look for columns by the fields that are in them."""
        self._missing = {column: field for field, column in columns.items() if column is not None}
        # messages.name is a field inside of the column messages, which dataset_columns may give another name.
        ignored = {name: name.partition(".")[0] for name, column in columns.items() if column is None}
        self._unseen = {name: {name, outer, columns.get(outer)} for name, outer in ignored.items()}
        self._row: Mapping[str, Any] | None = None

    def look_in(self, row: dict[str, Any] | Refused) -> None:
        """Look for the columns in a row, which also may be unreadable."""
        if not (self._missing or self._unseen) or not isinstance(row, dict):
            return
        self._row = self._row or row
        for column in self._missing.keys() & row.keys():
            del self._missing[column]
        if self._unseen:
            names = {*row, *map(table.usual_name, row)}
            self._unseen = {name: columns for name, columns in self._unseen.items() if not columns & names}

    def check(self) -> None:
        """Raise StepError `no_such_column` if no row has one of the columns."""
        if not self._missing or self._row is None:
            return
        column, field = next(iter(self._missing.items()))
        message, hint = advice.about_absent_column(column, field, self._row, table.FIELDS | rl_formats.FIELDS)
        raise StepError("no_such_column", message, hint=hint)

    def warnings(self) -> Iterator[JobWarning]:
        """Yield a warning about each column to ignore that no row has."""
        if self._row is None:
            return
        for column in sorted(self._unseen):
            message = f"no row has the column {shown(column)} to ignore; the first row has {names_in(self._row)}"
            yield JobWarning(code="nothing_to_ignore", message=message, hint="name it as the rows do, or leave it out")
