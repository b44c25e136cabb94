"""The same rows in every kind of file."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gemtune.datasets.files.kinds import FileKind

Rows = Sequence[Mapping[str, Any]]


def written(rows: Rows, kind: FileKind) -> bytes:
    """Return a file with rows, which all have the same fields.

    Tables have anything that is not a text as JSON text.
    """
    content = _content(rows, kind.ending)
    if kind.compression == "gz":
        return gzip.compress(content)
    if kind.compression == "zst":
        return bytes(pa.compress(content, "zstd", asbytes=True))
    return content


def _content(rows: Rows, ending: str) -> bytes:
    match ending:
        case "parquet":
            target = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(list(rows)), target, row_group_size=3)
            return target.getvalue()
        case "json":
            return json.dumps(list(rows), indent=1).encode()
        case "csv" | "tsv":
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if ending == "tsv" else ",")
            writer.writeheader()
            writer.writerows(
                {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
                for row in rows
            )
            return text.getvalue().encode()
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(**columns: Any) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table(columns), target)
    return target.getvalue()
