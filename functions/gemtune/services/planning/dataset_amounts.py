"""Amount of rows and tokens of a dataset, guessed from its files."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from dataclasses import dataclass

from gemtune.datasets.files.kinds import FileKind, kind_of
from gemtune.datasets.files.table_header import BadHeader, read_header
from gemtune.datasets.files.table_quotes import Quotes
from gemtune.datasets.files.wrapped_rows import begin_of_array
from gemtune.errors import ObjectNotFound
from gemtune.jobs.parts.plan import Span
from gemtune.ports import Objects
from gemtune.request.rl_spec import GrpoConfig
from gemtune.request.training_config import DEFAULT_SEQ_LENGTH, TrainingConfig

# Bytes per token, with names of fields and punctuation: of dense scripts, of most text, and of text with long words.
DENSE, USUAL, SPARSE = 1.5, 4.0, 9.0
# Bytes at the beginning of a file by which the size of its rows is judged.
SAMPLE = 256 * 1024


@dataclass(frozen=True, slots=True)
class RowSizes:
    """Rows of a dataset and their tokens; None where they cannot be told."""

    rows: Span
    tokens: Span


def measure(data: Objects, files: Sequence[tuple[str, int]], config: TrainingConfig) -> RowSizes | None:
    """Estimate the rows of a train split, and their tokens.

    files: names and sizes. Returns None if there are none, or if their rows are not told by lines of text.
    """
    if not files:
        return None
    first, size = files[0]
    kind = kind_of(first)
    if kind is None or kind.compression is not None or size == 0:
        return None
    try:
        sample = data.read_range(first, 0, SAMPLE)
    except ObjectNotFound:  # deleted in the meantime
        return None
    is_whole = len(sample) == size
    counted = _count(kind, sample, is_whole=is_whole)
    if counted is None:
        return None
    lines, header_bytes = counted
    per_row, total = (len(sample) - header_bytes) / lines, float(sum(each - header_bytes for _, each in files))
    rows = max(1.0, total / per_row)
    is_whole = is_whole and len(files) == 1
    span = (
        Span(least=rows, expected=rows, most=rows) if is_whole else Span(least=rows / 2, expected=rows, most=2 * rows)
    )
    longest = config.max_seq_length or DEFAULT_SEQ_LENGTH
    tokens = [min(longest, per_row / bytes_per_token) for bytes_per_token in (SPARSE, USUAL, DENSE)]
    counts = [count * each for count, each in zip((span.least, span.expected, span.most), tokens, strict=True)]
    return RowSizes(span, Span(least=counts[0], expected=counts[1], most=counts[2]))


def _count(kind: FileKind, sample: bytes, *, is_whole: bool) -> tuple[int, int] | None:
    """Return the rows that a sample has, and the bytes in front of them.

    None if its rows are not told by lines of text. is_whole: whether the sample is the whole file.
    """
    if kind.layout == "table":
        return _count_table(sample, tabs=kind.ending == "tsv", is_whole=is_whole)
    lines = sample.count(b"\n") + (is_whole and not sample.endswith(b"\n"))
    if kind.layout != "json" or lines == 0 or begin_of_array(sample.removeprefix(codecs.BOM_UTF8)) is not None:
        return None
    return lines, 0


def _count_table(sample: bytes, *, tabs: bool, is_whole: bool) -> tuple[int, int] | None:
    """Return the rows of a table, and the bytes of its header, as `_count`.

    Line breaks in quotes end no row.
    """
    header, *lines = sample.splitlines(keepends=True)
    try:
        _, delimiter = read_header(header.removeprefix(codecs.BOM_UTF8), tabs=tabs)
    except BadHeader:
        return None
    rows, quotes = 0, Quotes(delimiter.encode())
    for line in lines:
        quotes.read(line)
        if not quotes.are_open and (line.endswith(b"\n") or is_whole):
            rows, quotes = rows + 1, Quotes(delimiter.encode())
    return (rows, len(header)) if rows else None


def amounts_of(config: TrainingConfig, sizes: RowSizes | None) -> tuple[Span | None, Span | None]:
    """Return the train_steps and the tokens of a training."""
    exact_steps = (
        None
        if config.max_steps is None
        else Span.model_validate(dict.fromkeys(("least", "expected", "most"), config.max_steps))
    )
    if sizes is None:
        return exact_steps, None
    values: dict[str, tuple[float, float]] = {}
    for name in ("least", "expected", "most"):
        rows = max(1.0, getattr(sizes.rows, name))
        per_row = getattr(sizes.tokens, name) / rows
        steps = float(config.max_steps or steps_of(config, rows))
        values[name] = steps, steps * rows_per_step(config) * (per_row + completion_tokens(config))
    steps_span = Span.model_validate({name: pair[0] for name, pair in values.items()})
    return steps_span, Span.model_validate({name: round(pair[1]) for name, pair in values.items()})


def steps_of(config: TrainingConfig, rows: float) -> int:
    """Return the train_steps of all epochs."""
    return max(1, math.ceil(rows / rows_per_step(config))) * config.epochs


def rows_per_step(config: TrainingConfig) -> int:
    """Return the rows of a train_step; for GRPO its completions."""
    return config.batch_size * config.gradient_accumulation_steps


def completion_tokens(config: TrainingConfig) -> int:
    """Return the tokens that GRPO samples for a row at most; otherwise 0."""
    return config.rl_config.max_completion_length if isinstance(config.rl_config, GrpoConfig) else 0
