"""Checkpoint of a training that an option names: a train_step, best, newest."""

from __future__ import annotations

import click

from gemtune.cli.connection import Connection
from gemtune.errors import StepError

TRAIN_STEP: click.ParamType[int] = click.IntRange(1)
BEST, NEWEST = "best", "newest"


class CheckpointReference(click.ParamType[str | int]):
    """A train_step, or a word for a checkpoint."""

    name = "train_step"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what the help text shows."""
        return f"{BEST}|{NEWEST}|TRAIN_STEP"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        """Return the train_step as a number, or the word."""
        if value in (BEST, NEWEST):
            return value
        try:
            return TRAIN_STEP.convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is neither {BEST} nor {NEWEST} nor a train_step from 1 on", param, ctx)


def train_step_of(connection: Connection, job_id: str, reference: str | int) -> int:
    """Return the train_step of a checkpoint.

    Raises StepError `no_checkpoint` if a word fits none.
    """
    if isinstance(reference, int):
        return reference
    checkpoints = connection.call("GET", f"/jobs/{job_id}/checkpoints")["checkpoints"]
    if not checkpoints:
        message = f"job {job_id} has no checkpoint, since its training has saved none yet or is finished"
        raise StepError("no_checkpoint", message, hint="try again later, or leave out --checkpoint if it is finished")
    chosen = [each for each in checkpoints if each["is_best"]] if reference == BEST else checkpoints
    if not chosen:
        message = f"no checkpoint of job {job_id} was evaluated, so none is the best"
        raise StepError("no_checkpoint", message, hint=f"use --checkpoint {NEWEST}, or a train_step")
    newest: int = max(each["train_step"] for each in chosen)
    return newest
