"""Check of a dataset that a service has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from gemtune.checks.report import CheckReport
from gemtune.cli.connection import REFUSED, Connection, as_commands

# Seconds between two questions: the first one, and the longest.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 3.0


def check(
    connection: Connection,
    dataset_id: str,
    request: dict[str, Any],
    *,
    samples: int,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[str, CheckReport]:
    """Have a dataset checked, and return the id of the check and its report.

    request: the one that would train. Exits with REFUSED if the check itself fails.
    """
    config = dict(request.pop("training_config", {}))
    base_model_id = config.pop("base_model_id", None)
    body = request | {"base_model_id": base_model_id, "training_config": config, "samples": samples}
    state = connection.call("POST", f"/datasets/{dataset_id}/check", json=body)
    pause = FIRST_PAUSE_SECONDS
    with _status(connection):
        while state["status"] == "running":
            sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            state = connection.call("GET", f"/datasets/{dataset_id}/checks/{state['check_id']}")
    if state["report"] is None:
        error = state["error"]
        click.echo(f"{error['code']}: {error['message']}", err=True)
        click.echo(f"  {as_commands(error['hint'])}", err=True)
        raise click.exceptions.Exit(REFUSED)
    report = CheckReport.model_validate(state["report"])
    link = state["rows_left_out"]
    if link is not None:
        report = report.model_copy(update={"rows_left_out": link["url"] or link["path"]})
    return str(state["check_id"]), report


@contextmanager
def _status(connection: Connection) -> Iterator[None]:
    """Say in a terminal that the service is at work."""
    from rich.console import Console

    console = Console(stderr=True)
    if connection.quiet or not console.is_terminal:
        yield
        return
    with console.status("the service checks the dataset…"):
        yield
