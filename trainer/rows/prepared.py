"""Token files, which prepare hands to train, and counts of their rows."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gemtune.request.rl_spec import GrpoConfig
from gemtune.request.training_config import TrainingConfig
from trainer.store.file_writer import FileWriter

# Rows per Parquet row group, which is also the number of rows in memory at once.
ROW_GROUP = 512
COLUMNS = ("input_ids", "labels")
ANSWER = "answer"
# KTO's rows only: whether the answer is desirable.
LABEL: Final = "label"
# Vision jobs only: the numbers of a row's pictures in the picture file, in order.
PICTURES: Final = "pictures"
# Audio jobs only: the same for a row's audio clips.
AUDIO: Final = "audio"


class TokenFile(FileWriter):
    """Parquet file of tokenized rows, written row group by row group.

    Columns are lists of int32, except GRPO's answers, which are strings, and LABEL, which is a boolean.
    """

    def __init__(self, path: Path, columns: Sequence[str] = COLUMNS):
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {LABEL: pa.bool_()} | {name: pa.string() for name in columns if name.startswith(ANSWER)}
        self._schema = pa.schema([(name, types.get(name, pa.list_(pa.int32()))) for name in columns])
        self._writer = pq.ParquetWriter(path, self._schema)
        self._waiting: list[Mapping[str, Any]] = []

    def _finish(self) -> None:
        self._flush()

    def _close(self) -> None:
        self._writer.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row. row: values by column name."""
        self._waiting.append(row)
        if len(self._waiting) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            columns = [self._column(field) for field in self._schema]
            self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
            self._waiting = []

    def _column(self, field: Any) -> Any:
        """Return a column of the waiting rows.

        Lists are joined first: pyarrow converts one long list ten times as fast as many short ones.
        """
        import numpy as np
        import pyarrow as pa

        values = [row[field.name] for row in self._waiting]
        if not pa.types.is_list(field.type):
            return pa.array(values, field.type)
        ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
        numbers = np.frombuffer(b"".join(map(as_numbers, values)), dtype=np.int32)
        # pa.array would import pandas, if it is installed, to look for its types.
        arrays = (pa.Array.from_buffers(pa.int32(), len(each), [None, pa.py_buffer(each)]) for each in (ends, numbers))
        return pa.ListArray.from_arrays(*arrays, type=field.type)


def as_numbers(value: Iterable[int]) -> array[int]:
    """Return a list as the numbers of 32 bits that a token file has."""
    return value if isinstance(value, array) else array("i", value)


def in_numbers(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row, lists as arrays of numbers."""
    return {
        name: value if isinstance(value, (str, bool, type(None))) else as_numbers(value)
        for name, value in columns.items()
    }


def read_tokens(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a token file. Reads one row group at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROW_GROUP):
            yield from batch.to_pylist()


def row_lengths(path: Path) -> list[int]:
    """Return the number of tokens of each row of a supervised token file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        batches = file.iter_batches(batch_size=ROW_GROUP, columns=["input_ids"])
        return [len(row) for batch in batches for row in batch.column(0)]


def total_train_steps(config: TrainingConfig, rows: int) -> int:
    """Return the number of optimizer steps of the whole run, on one device.

    It is ceil(ceil(rows / batch_size) / gradient_accumulation_steps) · epochs, as transformers' Trainer counts; GRPO
    drops the last, incomplete step of an epoch. rows: rows per epoch, or packs per epoch if rows are packed.
    """
    if config.max_steps is not None:
        return config.max_steps
    if isinstance(config.rl_config, GrpoConfig):
        return rows // prompts_per_step(config, config.rl_config) * config.epochs
    batches = -(-rows // config.batch_size)
    return -(-batches // config.gradient_accumulation_steps) * config.epochs


def prompts_per_step(config: TrainingConfig, rl: GrpoConfig) -> int:
    """Return the number of prompts per train_step of GRPO.

    Each prompt has `num_generations` completions, and a batch counts completions.
    """
    return config.batch_size * config.gradient_accumulation_steps // rl.num_generations


def histogram(lengths: Counter[int]) -> dict[str, Any]:
    """Summarize the tokens per row.

    lengths: number of rows by their tokens; at least one row. Returns the minimum `least`, the lower `median`, the
    maximum `most`, and `rows_up_to`: for each power of two, the number of rows above the previous power and up to it.
    """
    bounds: Counter[int] = Counter()
    middle, passed, median = (lengths.total() + 1) // 2, 0, 0
    for length, rows in sorted(lengths.items()):
        bounds[1 << max(0, (length - 1).bit_length())] += rows
        if passed < middle:
            median = length
        passed += rows
    rows_up_to = {str(bound): rows for bound, rows in bounds.items()}
    return {"least": min(lengths), "median": median, "most": max(lengths), "rows_up_to": rows_up_to}
