"""Checkpoints in the objects store.

A checkpoint counts only with its manifest. The two newest are kept, and the one with the best evaluation.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gemtune.ports import Objects
from trainer.store import manifest

log = logging.getLogger(__name__)

KEEP_NEWEST = 2
# Without one of these a resumed training would differ from an uninterrupted one.
REQUIRED_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
# transformers' Trainer saves these too; a resumed training takes them from the base model.
EXCLUDED_FILES = ("tokenizer*", "chat_template.jinja", "special_tokens_map.json", "README.md", "training_args.bin")
_PREFIX = re.compile(r"(?P<prefix>.*/checkpoints/(?P<attempt>\d+)/checkpoint-(?P<train_step>\d+))/")


@dataclass(frozen=True, slots=True, order=True)
class Checkpoint:
    """Place of a checkpoint; orders by train_step, then by attempt."""

    train_step: int
    attempt: int
    prefix: str


def save(export: Objects, folder: Path, *, job_prefix: str, attempt: int, train_step: int) -> None:
    """Publish a checkpoint folder of transformers' Trainer, then delete it.

    Raises OSError if a required file is missing.
    """
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise OSError(f"the checkpoint of train_step {train_step} lacks {', '.join(missing)}")
    for pattern in EXCLUDED_FILES:
        for path in folder.glob(pattern):
            path.unlink()
    manifest.publish(export, folder, f"{job_prefix}/checkpoints/{attempt}/checkpoint-{train_step}")
    shutil.rmtree(folder)


def prune(export: Objects, job_prefix: str, *, best: int | None = None) -> None:
    """Delete all complete checkpoints but the newest and the best.

    best: train_step of the checkpoint with the best evaluation.
    """
    complete = [c for c in list_all(export, job_prefix) if manifest.read_whole(export, c.prefix) is not None]
    for old in complete[KEEP_NEWEST:]:
        if old.train_step != best:
            export.delete_prefix(f"{old.prefix}/")


def newest(export: Objects, job_prefix: str, into: Path) -> tuple[Checkpoint, Path] | None:
    """Fetch the newest complete checkpoint of any attempt, or return None.

    The folder may be written to. Damaged checkpoints are skipped.
    """
    return _first_complete(export, list_all(export, job_prefix), into)


def at_train_step(export: Objects, job_prefix: str, train_step: int, into: Path) -> Path | None:
    """Fetch a complete checkpoint of a train_step, or return None.

    The folder may be written to.
    """
    candidates = [checkpoint for checkpoint in list_all(export, job_prefix) if checkpoint.train_step == train_step]
    first = _first_complete(export, candidates, into)
    return None if first is None else first[1]


def _first_complete(export: Objects, candidates: Sequence[Checkpoint], into: Path) -> tuple[Checkpoint, Path] | None:
    for checkpoint in candidates:
        try:
            folder = manifest.fetch(export, checkpoint.prefix, into / "fetched")
        except manifest.IncompleteFolder as error:
            log.warning("skipping a checkpoint: %s", error)
            shutil.rmtree(into / "fetched", ignore_errors=True)
            continue
        target = into / f"checkpoint-{checkpoint.train_step}"
        if folder == into / "fetched":  # our own copy; on Cloud Run a second one would take memory
            folder.rename(target)
        else:
            shutil.copytree(folder, target)
        return checkpoint, target
    return None


def list_all(export: Objects, job_prefix: str) -> Sequence[Checkpoint]:
    """Return every checkpoint with at least one file, newest first."""
    matches = {
        match.groups() for stat in export.list(f"{job_prefix}/checkpoints/") if (match := _PREFIX.match(stat.name))
    }
    return sorted((Checkpoint(int(step), int(attempt), prefix) for prefix, attempt, step in matches), reverse=True)
