"""Check of a dataset that a service has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from gemtune.checks.report import CheckReport
from gemtune.cli.connection import REFUSED, Connection, interrupts
from gemtune.cli.connection.hints import as_commands
from gemtune.cli.connection.text import is_redrawn
from gemtune.client import operations


def check(connection: Connection, dataset_id: str, request: dict[str, Any], *, samples: int) -> tuple[str, CheckReport]:
    """Have a dataset checked, and return the id of the check and its report.

    request: the one that would train. Exits with REFUSED if the check itself fails.
    """
    config = dict(request.pop("training_config", {}))
    base_model_id = config.pop("base_model_id", None)
    body = request | {"base_model_id": base_model_id, "training_config": config, "samples": samples}
    goes_on = "The service goes on with the check; the same command shows its report."
    with interrupts.explaining_interrupt(goes_on), _status(connection):
        state = connection.run(operations.check_dataset(dataset_id, body))
    if (error := state.error) is not None:
        connection.refuse(error.message, code=error.code, hint=None if error.hint is None else as_commands(error.hint))
    if state.report is None:
        raise click.exceptions.Exit(REFUSED)
    link = state.rows_left_out
    place = state.report.rows_left_out if link is None else link.url or link.path
    return state.check_id, state.report.model_copy(update={"rows_left_out": place})


@contextmanager
def _status(connection: Connection) -> Iterator[None]:
    """Say in a terminal that the service is at work."""
    from rich.console import Console

    console = Console(stderr=True)
    if connection.quiet or not is_redrawn(console):
        yield
        return
    with console.status("the service checks the dataset…"):
        yield
