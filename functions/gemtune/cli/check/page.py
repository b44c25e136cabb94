"""Report of a check as text, readable at 60 columns."""

from __future__ import annotations

import sys
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

import click

from gemtune.checks.report import CheckReport, Lengths, RowLeftOut, SamplePiece, SplitCheck
from gemtune.cli.connection.hints import as_commands
from gemtune.cli.connection.text import counted

WIDTH, NAME_WIDTH, BAR_WIDTH = 60, 18, 24
ROWS_SHOWN, COLUMNS_SHOWN, SAMPLE_CHARACTERS = 10, 20, 600
# Codes of errors whose message goes on with the first rows and their reasons.
NAME_ROWS = ("bad_rows", "rows_too_long")
NOT_EVALUATED = (
    "so the training would not be evaluated: name rows with --eval FILE, or hold out a tenth with "
    "--set training_config.eval_strategy=epoch"
)
# Marks around trained text where there are no colours.
BEGIN, END = "[+", "+]"


def has_colours() -> bool:
    """Return whether text can be coloured."""
    context = click.get_current_context(silent=True)
    return sys.stdout.isatty() if context is None or context.color is None else context.color


def format_report(report: CheckReport, *, colours: bool) -> Iterator[str]:
    """Yield the lines of a report. colours: mark trained text by them."""
    if report.train is not None:
        yield from _format_summary(report)
        for title, split in (("train", report.train), ("held-out", report.held_out)):
            if split is not None:
                yield from _format_split(title, split, report.rows_left_out)
        yield from _format_duplicates(report)
        yield from _format_samples(report.samples, colours=colours)
    for warning in report.warnings:
        if warning.code in ("rows_refused", "rows_dropped"):  # the lines about the split name the rows
            continue
        yield from _wrapped(f"warning: {_printable(warning.message)} ({warning.code})", "", "  ")
        if warning.hint:
            yield from _wrapped(_printable(as_commands(warning.hint)), "  ", "  ")
    if report.error is None:
        yield "This dataset can be trained on."
        return
    message = report.error.message
    if report.error.code in NAME_ROWS and report.train is not None:  # the lines about the split have the reasons
        message = message.partition(": ")[0]
    yield from _wrapped(f"{report.error.code}: {_printable(as_commands(message))}", "", "  ")
    if report.error.hint:
        yield from _wrapped(_printable(as_commands(report.error.hint)), "  ", "  ")
    yield "The rows were not checked." if report.train is None else "This dataset cannot be trained on as it is."


def _format_summary(report: CheckReport) -> Iterator[str]:
    """Yield the lines about the whole training."""
    yield _line("base model", report.base_model_id)
    yield _line("chat template", str(report.chat_template))
    yield _line("method", report.method)
    yield _line("max_seq_length", f"{report.max_seq_length:,}")
    if report.rows is not None:
        rows = report.rows
        yield _line("rows to train on", f"{rows.train:,}")
        yield _line("rows held out", f"{rows.held_out:,}")
        if rows.train and not rows.held_out:
            yield from _wrapped(NOT_EVALUATED, "  ", "  ")
        yield _line("tokens per epoch", f"{rows.tokens:,} ({rows.trained_tokens:,} trained)")
    if report.packs is not None:
        yield _line("packs per epoch", f"{report.packs:,}")
    if report.workload is not None:
        yield _line("train_steps", f"{report.workload.train_steps:,}")
        yield _line("tokens of the plan", f"{report.workload.tokens:,}")


def _format_split(title: str, split: SplitCheck, rows_left_out: str | None) -> Iterator[str]:
    """Yield the lines about one split."""
    yield ""
    yield f"{title} split: {', '.join(split.files[:5])}{', …' if len(split.files) > 5 else ''}"
    counts = {"used": split.used, "refused": split.refused, "too long": split.dropped, "cut": split.truncated}
    yield _line("  rows", ", ".join(f"{count:,} {name}" for name, count in counts.items() if count or name == "used"))
    if split.cut_ends:
        yield _line("  without an end", f"{split.cut_ends:,} of the cut rows")
    if split.formats:
        yield _line("  format", _counts(split.formats, split.used))
    yield from _format_columns(split)
    if split.lengths is not None:
        yield from _format_lengths(split.lengths)
    yield from _format_left_out("refused", split.refused_rows, split.refused)
    yield from _format_left_out("too long", split.dropped_rows, split.dropped)
    if rows_left_out is not None and split.refused + split.dropped:
        yield f"  all of them, with reasons: {rows_left_out}"


def _format_columns(split: SplitCheck) -> Iterator[str]:
    """Yield a line for each field of the rows."""
    everywhere = split.used + split.refused + split.dropped
    for column in split.columns[:COLUMNS_SHOWN]:
        name = _printable(column.name)[:40]
        unread = ": not read" if split.used else ""  # rows that are all refused do not tell what would be read
        read_as = unread if column.read_as is None else f": read as {_printable(column.read_as)}"
        rows = "" if column.rows == everywhere else f", in {counted(column.rows, 'row')}"
        yield _line("  field", f"{name}{read_as}{rows}")
    if len(split.columns) > COLUMNS_SHOWN:
        yield _line("  field", f"and {len(split.columns) - COLUMNS_SHOWN} more")


def _format_lengths(lengths: Lengths) -> Iterator[str]:
    """Yield the histogram of tokens per row."""
    yield _line("  tokens per row", f"{lengths.least:,} to {lengths.most:,}, median {lengths.median:,}")
    bounds = sorted(lengths.rows_up_to)
    most = max(lengths.rows_up_to.values())
    bound = bounds[0]
    while bound <= bounds[-1]:
        rows = lengths.rows_up_to.get(bound, 0)
        bar = "#" * (-(-rows * BAR_WIDTH // most))
        yield f"  {f'{bound // 2 + 1:,}-{bound:,}':>15} {bar:{BAR_WIDTH}} {rows:,}"
        bound *= 2


def _format_left_out(title: str, rows: Sequence[RowLeftOut], total: int) -> Iterator[str]:
    """Yield the first rows that are not used, by their reasons."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for row in rows[:ROWS_SHOWN]:
        numbers.setdefault((row.file, row.reason), []).append(row.row)
    for (file, reason), of_rows in numbers.items():
        named = f"row{'s' if len(of_rows) > 1 else ''} {', '.join(map(str, of_rows))} of {_printable(file)}"
        yield from _wrapped(f"{title}: {named}: {_printable(as_commands(reason))}")
    if total > ROWS_SHOWN and rows:
        yield f"  {title}: and {total - min(ROWS_SHOWN, len(rows)):,} more"


def _format_duplicates(report: CheckReport) -> Iterator[str]:
    """Yield the lines about equal and nearly equal rows."""
    yield ""
    if report.rows is not None:
        yield _line("repeated rows", f"{report.rows.duplicates:,} of the train split")
        if report.held_out is not None:
            yield _line("equal rows", f"{report.rows.held_out_duplicates:,} held out and trained on")
    near = report.near_duplicates
    if near is None:
        return
    yield _line("near duplicates", f"{near.rows:,} held-out rows are nearly trained on")
    for example in near.examples:
        yield f"  {example.similarity:.0%}: {_printable(example.held_out)} and {_printable(example.train)}"
    yield from _wrapped(f"compared by {near.method}")


def _format_samples(samples: Sequence[Sequence[SamplePiece]], *, colours: bool) -> Iterator[str]:
    """Yield the samples, trained text told apart from the rest."""
    if not samples:
        return
    yield ""
    yield f"samples; trained text is {'green' if colours else f'between {BEGIN} and {END}'}:"
    for number, sample in enumerate(samples, start=1):
        yield f"--- {number}"
        yield "".join(_format_piece(piece, colours=colours) for piece in sample).rstrip("\n")
    yield "---"


def _format_piece(piece: SamplePiece, *, colours: bool) -> str:
    """Format a part of a sample; the middle of a long one is left out."""
    text = _printable(piece.text, breaks=True)
    if len(text) > SAMPLE_CHARACTERS:
        half = SAMPLE_CHARACTERS // 2
        text = f"{text[:half]} …({len(text) - 2 * half:,} characters)… {text[-half:]}"
    part = "" if piece.part is None else f"\n{piece.part}: "
    if not piece.trained:
        return part + (click.style(text, dim=True) if colours else text)
    return part + (click.style(text, fg="green") if colours else f"{BEGIN}{text}{END}")


def _wrapped(text: str, first: str = "  ", others: str = "    ") -> list[str]:
    """Return the lines of a text.

    Words stay whole, so that what is to be copied can be. first, others: indentation of the lines.
    """
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def _counts(counts: Mapping[str, int], total: int) -> str:
    return ", ".join(name if rows == total else f"{name} ({counted(rows, 'row')})" for name, rows in counts.items())


def _line(name: str, value: str) -> str:
    return f"{name + ':':{NAME_WIDTH}} {_printable(value)}"


def _printable(text: str, *, breaks: bool = False) -> str:
    """Return a text without control characters, which a terminal would obey.

    breaks: keep line breaks and tabs.
    """
    return "".join(
        character
        if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or (breaks and character in "\n\t")
        else character.encode("unicode_escape", errors="replace").decode()
        for character in text
    )
