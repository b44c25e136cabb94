"""Checkpoints in the objects store: whole or not there, newest first; two are kept, and that of the best evaluation."""

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
# Without these a resumed training would not be the same training.
REQUIRED_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
# What the trainer saves along, and a resumed training takes from the base model.
EXCLUDED_FILES = ("tokenizer*", "chat_template.jinja", "special_tokens_map.json", "README.md", "training_args.bin")
_PREFIX = re.compile(r"(?P<prefix>.*/checkpoints/(?P<attempt>\d+)/checkpoint-(?P<train_step>\d+))/")


@dataclass(frozen=True, slots=True, order=True)
class Checkpoint:
    train_step: int
    attempt: int
    prefix: str


def save(export: Objects, folder: Path, *, job_prefix: str, attempt: int, train_step: int) -> None:
    """Publish a checkpoint folder of the trainer; the local copy goes. Raises OSError when it is not whole."""
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise OSError(f"the checkpoint of train_step {train_step} lacks {', '.join(missing)}")
    for pattern in EXCLUDED_FILES:
        for path in folder.glob(pattern):
            path.unlink()
    manifest.publish(export, folder, f"{job_prefix}/checkpoints/{attempt}/checkpoint-{train_step}")
    shutil.rmtree(folder)


def prune(export: Objects, job_prefix: str, *, best: int | None = None) -> None:
    """Remove all but the newest whole checkpoints, and but that of train_step `best`."""
    whole = [c for c in list_all(export, job_prefix) if manifest.read_whole(export, c.prefix) is not None]
    for old in whole[KEEP_NEWEST:]:
        if old.train_step != best:
            export.delete_prefix(f"{old.prefix}/")


def newest(export: Objects, job_prefix: str, into: Path) -> tuple[Checkpoint, Path] | None:
    """The newest whole checkpoint of any attempt, as a local folder that may be written to; broken ones are passed."""
    return _first_whole(export, list_all(export, job_prefix), into)


def at_train_step(export: Objects, job_prefix: str, train_step: int, into: Path) -> Path | None:
    """A whole checkpoint of this train_step, as a local folder that may be written to."""
    there = [checkpoint for checkpoint in list_all(export, job_prefix) if checkpoint.train_step == train_step]
    first = _first_whole(export, there, into)
    return None if first is None else first[1]


def _first_whole(export: Objects, candidates: Sequence[Checkpoint], into: Path) -> tuple[Checkpoint, Path] | None:
    for checkpoint in candidates:
        try:
            folder = manifest.fetch(export, checkpoint.prefix, into / "fetched")
        except manifest.IncompleteFolder as error:
            log.warning("passing over a checkpoint: %s", error)
            shutil.rmtree(into / "fetched", ignore_errors=True)
            continue
        target = into / f"checkpoint-{checkpoint.train_step}"
        if folder == into / "fetched":  # a copy of ours: where files lie in memory, a second one is too many
            folder.rename(target)
        else:
            shutil.copytree(folder, target)
        return checkpoint, target
    return None


def list_all(export: Objects, job_prefix: str) -> Sequence[Checkpoint]:
    """Every checkpoint there is a file of, whole or not, newest first."""
    matches = {
        match.groups() for stat in export.list(f"{job_prefix}/checkpoints/") if (match := _PREFIX.match(stat.name))
    }
    return sorted((Checkpoint(int(step), int(attempt), prefix) for prefix, attempt, step in matches), reverse=True)
