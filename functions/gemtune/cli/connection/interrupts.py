"""Explanations after Ctrl-C: what goes on, and how to go on with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from gemtune.cli.connection import INTERRUPTED
from gemtune.cli.connection.text import echo_message
from gemtune.client.references import short_id

DOWNLOAD_IS_KEPT = "What was downloaded is kept; the same command goes on there."
PARTS_ARE_KEPT = "The parts that were sent are kept; the same command goes on there."


def job_goes_on(job_id: str) -> tuple[str, ...]:
    """Return that a job goes on, and how to look at it and cancel it."""
    return (
        "The job goes on.",
        f"Look at it again: gemtune watch {short_id(job_id)}",
        f"Cancel it: gemtune cancel {short_id(job_id)}",
    )


def may_be_accepted(what: str) -> str:
    """Return that a request is perhaps accepted, since its answer is unknown."""
    return f"The service may have accepted the {what}: `gemtune jobs` shows it then."


@contextmanager
def explaining_interrupt(*lines: str) -> Iterator[None]:
    """Print lines after Ctrl-C, and exit with INTERRUPTED."""
    try:
        yield
    except KeyboardInterrupt:
        explain_interrupt(*lines)
        raise click.exceptions.Exit(INTERRUPTED) from None


def explain_interrupt(*lines: str) -> None:
    """Print lines below the `^C` of the terminal."""
    echo_message("\n" + "\n".join(lines))
