"""What prepare hands to train: tokens in Parquet, and beside them where the base model lies and what there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gemtune.request.rl_spec import GrpoConfig
from gemtune.request.spec import TrainingConfig
from trainer.store.file_writer import FileWriter

# Rows of one Parquet row group: what is in memory at once.
ROW_GROUP = 512
COLUMNS = ("input_ids", "labels")
ANSWER = "answer"
# The numbers of a row's pictures in the album, in order; of vision jobs.
PICTURES: Final = "pictures"


class TokenFile(FileWriter):
    """Writes encoded rows to a Parquet file: lists of int32 by name, and as a text what GRPO's answers are."""

    def __init__(self, path: Path, columns: Sequence[str] = COLUMNS):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = pa.schema([(name, pa.string() if name == ANSWER else pa.list_(pa.int32())) for name in columns])
        self._writer = pq.ParquetWriter(path, self._schema)
        self._waiting: list[Mapping[str, Any]] = []

    def _finish(self) -> None:
        self._flush()

    def _close(self) -> None:
        self._writer.close()

    def add(self, row: Mapping[str, Any]) -> None:
        self._waiting.append(row)
        if len(self._waiting) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, self._schema))
            self._waiting = []


def read_tokens(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a token file, a row group at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROW_GROUP):
            yield from batch.to_pylist()


def row_lengths(path: Path) -> list[int]:
    """Tokens of each row of a token file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        batches = file.iter_batches(batch_size=ROW_GROUP, columns=["input_ids"])
        return [len(row) for batch in batches for row in batch.column(0)]


def total_train_steps(config: TrainingConfig, rows: int) -> int:
    """Optimizer steps of a training on one device: batches of an epoch, by accumulation, by epochs. rows: those of an
    epoch, or the packs they fill."""
    if config.max_steps is not None:
        return config.max_steps
    if isinstance(config.rl_config, GrpoConfig):  # what does not fill a train_step any more is left out of an epoch
        return rows // prompts_per_step(config, config.rl_config) * config.epochs
    batches = -(-rows // config.batch_size)
    return -(-batches // config.gradient_accumulation_steps) * config.epochs


def prompts_per_step(config: TrainingConfig, rl: GrpoConfig) -> int:
    """Prompts of a train_step of GRPO, each of which has its group of completions."""
    return config.batch_size * config.gradient_accumulation_steps // rl.num_generations


def histogram(lengths: Counter[int]) -> dict[str, Any]:
    """Tokens a row, from how many rows have how many: least, median (the lower one), most, and how many rows lie up to
    each power of two. There is at least one row."""
    bounds: Counter[int] = Counter()
    middle, passed, median = (lengths.total() + 1) // 2, 0, 0
    for length, rows in sorted(lengths.items()):
        bounds[1 << max(0, (length - 1).bit_length())] += rows
        if passed < middle:
            median = length
        passed += rows
    rows_up_to = {str(bound): rows for bound, rows in bounds.items()}
    return {"least": min(lengths), "median": median, "most": max(lengths), "rows_up_to": rows_up_to}
