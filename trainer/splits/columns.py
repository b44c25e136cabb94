"""Columns that a request names, looked for in all rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemtune.datasets.formats import table
from gemtune.datasets.reading.fields import names_in, shown
from gemtune.datasets.refusal import Refused
from gemtune.datasets.rl import formats as rl_formats
from gemtune.errors import StepError


class NamedColumns:
    """Columns that `dataset_columns` names, as far as no row had them yet.

    A field that is read from such a column would be read from nowhere.
    """

    def __init__(self, columns: Mapping[str, str | None]):
        """Look for columns by the fields that are in them."""
        self._missing = {column: field for field, column in columns.items() if column is not None}
        self._row: Mapping[str, Any] | None = None

    def look_in(self, row: dict[str, Any] | Refused) -> None:
        """Look for the columns in a row, which also may be unreadable."""
        if not self._missing or not isinstance(row, dict):
            return
        self._row = self._row or row
        for column in self._missing.keys() & row.keys():
            del self._missing[column]

    def check(self) -> None:
        """Raise StepError `no_such_column` if no row has one of the columns."""
        if not self._missing or self._row is None:
            return
        column, field = next(iter(self._missing.items()))
        message = (
            f"no row has the column {shown(column)} for the field {field}; the first row has {names_in(self._row)}"
        )
        hint = "name a column that the rows have, or leave the field out"
        if field in self._row and column in table.FIELDS | rl_formats.FIELDS:
            hint = f"if {shown(field)} is the {column}, set dataset_columns to {{{column}: {shown(field)}}}"
        raise StepError("no_such_column", message, hint=hint)
