"""Rows of a dataset, page by page: as they are, or as a check read them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gemtune.checks.errors import CheckNotFound, RowsNotReadable
from gemtune.checks.record import record_name, results_folder
from gemtune.checks.row import CheckedRow, SplitName, rows_name
from gemtune.datasets.files import splits
from gemtune.datasets.files.kinds import FileKind, kind_of
from gemtune.datasets.files.row_pages import CHUNK, LONGEST_ROW, Place, RawRow, rows_from
from gemtune.datasets.files.splits import BadSplits
from gemtune.datasets.files.table_header import NOT_UTF8, BadHeader, read_header
from gemtune.datasets.files.text_encoding import mark_of
from gemtune.datasets.files.wrapped_rows import begin_of_array
from gemtune.errors import BadPageToken, UnsafeName
from gemtune.ports import Buckets
from gemtune.services.datasets.catalogue import DatasetCatalogue
from gemtune.services.datasets.listing import MAX_LISTED, list_sizes, read_splits
from gemtune.untrusted import Unreadable, read_json_object

# Bytes of the rows of a page, but for the last of them.
PAGE_BYTES = 1024 * 1024
TOKEN = re.compile(r"(\d{1,5})-(\d{1,15})-(\d{1,12})-([012])", re.ASCII)


@dataclass(frozen=True, slots=True)
class RowsPage:
    """Rows of one page, and the token of the next one; None at the end."""

    rows: Sequence[CheckedRow]
    next_after: str | None


@dataclass(frozen=True, slots=True)
class ReadRows:
    """Service that reads rows of datasets."""

    buckets: Buckets
    catalogue: DatasetCatalogue

    def stored(self, dataset_id: str, split: SplitName, *, after: str | None, limit: int) -> RowsPage:
        """Return rows as the dataset's files have them.

        Raises DatasetNotFound, DatasetIncomplete, DatasetUnreadable, RowsNotReadable, BadPageToken.
        """
        self.catalogue.describe_ready(dataset_id)
        files = self._files(dataset_id, split)
        number, place = _parse(after, len(files))
        rows: list[CheckedRow] = []
        size = 0
        while number < len(files):
            file = _TextFile(self.buckets, dataset_id, files[number])
            for raw in file.rows(place):
                place = raw.after
                rows += [file.decoded(raw)] if raw.number else []
                size += 0 if raw.content is None else len(raw.content)
                if len(rows) >= limit or size >= PAGE_BYTES or place.within:
                    return RowsPage(rows, _token(number, place))
            number, place = number + 1, Place()
        return RowsPage(rows, None)

    def checked(self, dataset_id: str, split: SplitName, check_id: str, *, after: str | None, limit: int) -> RowsPage:
        """Return rows as a check read them: the first ones of a split.

        Raises CheckNotFound, RowsNotReadable, BadPageToken.
        """
        try:
            has_record = self.buckets.data.stat(record_name(dataset_id, check_id)) is not None
        except UnsafeName:
            has_record = False
        if not has_record:
            raise CheckNotFound(dataset_id, check_id)
        name = results_folder(dataset_id, check_id) + rows_name(split)
        if self.buckets.export.stat(name) is None:
            message = f"the check has no rows of the {split} split"
            raise RowsNotReadable(message, hint="wait until it is done; its report says why it could not read them")
        _, place = _parse(after, 1)
        rows: list[CheckedRow] = []
        size = 0
        for raw in rows_from(
            lambda start, length: self.buckets.export.read_range(name, start, length), place, delimiter=None
        ):
            if raw.content is not None:
                rows.append(CheckedRow.model_validate_json(raw.content))
                size += len(raw.content)
            if len(rows) >= limit or size >= PAGE_BYTES:
                return RowsPage(rows, _token(0, raw.after))
        return RowsPage(rows, None)

    def _files(self, dataset_id: str, split: SplitName) -> tuple[str, ...]:
        """Return the files of a split. Raises RowsNotReadable."""
        folder = splits.folder_of(dataset_id)
        try:
            sizes = list_sizes(self.buckets.data, folder)
            if sizes is None:
                raise _needs_a_check(dataset_id, f"a dataset of more than {MAX_LISTED} files has no pages of rows")
            chosen = read_splits(self.buckets.data, folder, sizes)
        except BadSplits as error:
            raise RowsNotReadable(str(error), hint=error.hint) from None
        except (UnsafeName, Unreadable) as error:
            raise RowsNotReadable(error.message, hint=error.hint or "upload the dataset again") from None
        return chosen.train if split == "train" else chosen.held_out


class _TextFile:
    """A file of text whose rows can be read from any offset.

    Raises RowsNotReadable for other files.
    """

    def __init__(self, buckets: Buckets, dataset_id: str, path: str):
        self.path, kind = path, kind_of(path)
        name = f"{splits.folder_of(dataset_id)}/{path}"
        self._read_range: Callable[[int, int], bytes] = lambda start, length: buckets.data.read_range(
            name, start, length
        )
        start = self._read_range(0, CHUNK)
        mark = mark_of(start)
        if kind is None or kind.layout == "parquet" or kind.compression is not None or mark.encoding != "utf-8":
            raise _no_text(dataset_id, path)
        self._kind: FileKind = kind
        self._first = len(mark.content)
        self._names: list[str] = []
        self._delimiter = ","
        if kind.layout == "table":
            header = start[self._first :].partition(b"\n")[0]
            try:
                self._names, self._delimiter = read_header(header, tabs=kind.ending == "tsv")
            except BadHeader:
                raise _no_text(dataset_id, path) from None
            self._first += len(header) + 1
        elif begin_of_array(start[self._first :]) is not None:
            raise _no_text(dataset_id, path)

    def rows(self, place: Place) -> Any:
        """Yield the rows from a place on."""
        begin = place if place.offset else Place(offset=self._first)
        delimiter = self._delimiter.encode() if self._kind.layout == "table" else None
        return rows_from(self._read_range, begin, delimiter=delimiter)

    def decoded(self, raw: RawRow) -> CheckedRow:
        """Return a row with its content, or the reason why it has none."""
        if raw.content is None:
            return CheckedRow(file=self.path, row=raw.number, content=None, reason=f"longer than {LONGEST_ROW} bytes")
        try:
            content = self._cells(raw.content) if self._names else read_json_object(raw.content)
        except (Unreadable, ValueError) as error:
            text = raw.content.decode(errors="replace")
            return CheckedRow(file=self.path, row=raw.number, content=text, reason=str(error))
        return CheckedRow(file=self.path, row=raw.number, content=content)

    def _cells(self, line: bytes) -> dict[str, Any]:
        """Return the cells of a row by the names of the columns.

        Raises ValueError.
        """
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_ROW))
        try:
            text = io.StringIO(line.decode(), newline="")  # where only line breaks end lines, not U+2028 or a form feed
            cells = next(csv.reader(text, delimiter=self._delimiter, strict=True))
        except UnicodeDecodeError as error:
            raise ValueError(NOT_UTF8) from error
        except csv.Error as error:
            raise ValueError(f"not valid CSV: {error}") from error
        if len(cells) != len(self._names):
            raise ValueError(f"{len(cells)} cells, where the first line names {len(self._names)} columns")
        return {name: cell for name, cell in zip(self._names, cells, strict=True) if cell}


def _no_text(dataset_id: str, path: str) -> RowsNotReadable:
    """Return the error for a file that is no plain text of rows."""
    reason = f"{path} is not a file whose rows can be read one by one: JSON lines, CSV or TSV in UTF-8, not compressed"
    return _needs_a_check(dataset_id, reason)


def _needs_a_check(dataset_id: str, message: str) -> RowsNotReadable:
    """Return the error for rows that only a check can show."""
    hint = f"begin a check with POST /datasets/{dataset_id}/check, and name it by its check_id"
    return RowsNotReadable(message, hint=hint)


def _token(file: int, place: Place) -> str:
    return f"{file}-{place.offset}-{place.number}-{int(place.within) + int(place.within and place.quoted)}"


def _parse(after: str | None, files: int) -> tuple[int, Place]:
    """Return the number of the file, and the place in it. Raises BadPageToken."""
    if after is None:
        return 0, Place()
    match = TOKEN.fullmatch(after)
    if match is None:
        raise BadPageToken("after")
    file, offset, number, within = map(int, match.groups())
    if file >= max(1, files):
        raise BadPageToken("after")
    return file, Place(offset, number, within=within > 0, quoted=within == 2)
