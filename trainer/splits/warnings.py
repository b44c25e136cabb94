"""Warnings about what prepare left out, cut or did not read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gemtune.datasets.files.splits import in_words
from gemtune.jobs.parts.results import JobWarning
from trainer.splits.tally import Tally

REPEATS_NAMED = 3


def warnings_of(tally: Tally, left_out: str) -> Iterator[JobWarning]:
    """Yield warnings about the rows of a split.

    left_out: where the file is that names all rows that are left out.
    """
    if tally.refused_rows:
        yield JobWarning(code="rows_refused", message=tally.refused_message(), hint=f"{left_out} names all of them")
    if tally.dropped_rows:
        message = f"{tally.dropped_message()} and are left out"
        hint = f"{tally.limits.fitting(tally.longest_whole)}; {left_out} names them"
        yield JobWarning(code="rows_dropped", message=message, hint=hint)
    if tally.cut_ends:
        hint = tally.limits.fitting(tally.longest_whole)
        yield JobWarning(code="ends_cut_off", message=tally.ends_message(), hint=hint)
    for reward, rows in tally.unjudged.items():
        message = (
            f"{rows} of {tally.kept_rows} rows of {tally.named} have an answer that is not one number: the reward "
            f"{reward} does not judge them, and only the other rewards do"
        )
        hint = "write the answer as one number, or set the reward's after to the text before it"
        yield JobWarning(code="rows_not_judged", message=message, hint=hint)


def repeated_rows(tally: Tally, repeats: Sequence[tuple[int, int]]) -> Iterator[JobWarning]:
    """Yield a warning if rows of a split are equal.

    repeats: (index, index of the first equal row) of each.
    """
    if repeats:
        first = "; ".join(f"{tally.place_of(a)} is {tally.place_of(b)} again" for a, b in repeats[:REPEATS_NAMED])
        message = f"{len(repeats)} of {tally.kept_rows} rows of {tally.named} repeat an earlier one: {first}"
        yield JobWarning(code="rows_repeated", message=message, hint="remove them unless they are to count more")


def held_out_and_trained(held_out: Tally, indexes: Sequence[int]) -> Iterator[JobWarning]:
    """Yield a warning if held-out rows are trained on, too.

    indexes: those of the held-out rows.
    """
    if indexes:
        first = ", ".join(held_out.place_of(index) for index in indexes[:REPEATS_NAMED])
        message = f"{len(indexes)} of {held_out.kept_rows} rows of {held_out.named} are trained on, too: {first}"
        hint = "remove them from one of the splits: metrics on rows that were trained on say little"
        yield JobWarning(code="held_out_rows_trained", message=message, hint=hint)


def other_row_count(tally: Tally, stated: int | None) -> Iterator[JobWarning]:
    """Yield a warning if a split has more or fewer rows than stated."""
    if stated is not None and stated != tally.all_rows:
        message = f"metadata.json states {stated} rows for the {tally.split} split, and it has {tally.all_rows}"
        yield JobWarning(code="row_count_differs", message=message, hint="check that its files are complete")


def files_not_read(files: Sequence[str]) -> Iterator[JobWarning]:
    """Yield a warning if the dataset has files that nothing reads."""
    if files:
        message = f"the dataset has files that are not read: {in_words(files)}"
        hint = "name a file for its split (train, val), or remove it; a test split is never read"
        yield JobWarning(code="files_not_read", message=message, hint=hint)
