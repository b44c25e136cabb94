"""Checkpoints in the objects store.

A checkpoint counts only with its manifest. The two newest are kept, and the one with the best evaluation.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gemtune.jobs.parts.results import Artifact
from gemtune.ports import Objects
from gemtune.training_files.checkpoint_names import CheckpointPlace, checkpoints_folder, place_in, place_of
from trainer.store import manifest

log = logging.getLogger(__name__)

KEEP_NEWEST = 2
# Without one of these a resumed training would differ from an uninterrupted one.
REQUIRED_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
# transformers' Trainer saves these too; a resumed training takes them from the base model.
EXCLUDED_FILES = ("tokenizer*", "chat_template.jinja", "special_tokens_map.json", "README.md", "training_args.bin")


@dataclass(frozen=True, slots=True)
class Saving:
    """Checkpoint that is being saved, file by file.

    An uploaded file leaves the local disk, which never has to hold the weights and the optimizer's states together.
    """

    export: Objects
    prefix: str
    artifacts: list[Artifact] = field(default_factory=list)

    @classmethod
    def begin(cls, export: Objects, *, job_prefix: str, attempt: int, train_step: int) -> Saving:
        """Return the checkpoint of a train_step, without files."""
        return cls(export, place_of(job_prefix, attempt=attempt, train_step=train_step).prefix)

    def upload(self, folder: Path) -> None:
        """Upload the files that transformers' Trainer has saved so far."""
        for pattern in EXCLUDED_FILES:
            for path in folder.glob(pattern):
                path.unlink()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.artifacts.append(manifest.add(self.export, path, self.prefix, path.relative_to(folder).as_posix()))
            path.unlink()

    def finish(self, folder: Path) -> None:
        """Upload the other files, complete the checkpoint, delete the folder.

        Raises OSError if a required file is missing.
        """
        self.upload(folder)
        missing = sorted(set(REQUIRED_FILES) - {artifact.name for artifact in self.artifacts})
        if missing:
            raise OSError(f"the {self.prefix.rpartition('/')[2]} lacks {', '.join(missing)}")
        manifest.seal(self.export, self.prefix, self.artifacts)
        shutil.rmtree(folder)


def prune(export: Objects, job_prefix: str, *, best: int | None = None) -> None:
    """Delete all complete checkpoints but the newest and the best.

    best: train_step of the checkpoint with the best evaluation.
    """
    for old in list_complete(export, job_prefix)[KEEP_NEWEST:]:
        if old.train_step != best:
            export.delete_prefix(f"{old.prefix}/")


def newest(export: Objects, job_prefix: str, into: Path) -> tuple[CheckpointPlace, Path] | None:
    """Return the newest complete checkpoint of any attempt, and its folder.

    Returns None if there is none. The folder is read-only: the store's own, or a copy in `into` where it has to be
    downloaded. Damaged checkpoints are skipped.
    """
    return _first_complete(export, list_all(export, job_prefix), into)


def at_train_step(export: Objects, job_prefix: str, train_step: int, into: Path) -> Path | None:
    """Return the folder of a complete checkpoint of a train_step, or None.

    As `newest` does.
    """
    candidates = [checkpoint for checkpoint in list_all(export, job_prefix) if checkpoint.train_step == train_step]
    first = _first_complete(export, candidates, into)
    return None if first is None else first[1]


def _first_complete(
    export: Objects, candidates: Sequence[CheckpointPlace], into: Path
) -> tuple[CheckpointPlace, Path] | None:
    for checkpoint in candidates:
        copy = into / f"checkpoint-{checkpoint.train_step}"
        try:
            return checkpoint, manifest.fetch(export, checkpoint.prefix, copy, in_place=True)
        except manifest.IncompleteFolder as error:
            log.warning("skipping a checkpoint: %s", error)
            shutil.rmtree(copy, ignore_errors=True)
    return None


def list_complete(export: Objects, job_prefix: str) -> Sequence[CheckpointPlace]:
    """Return every complete checkpoint, newest first."""
    return [place for place in list_all(export, job_prefix) if manifest.read_whole(export, place.prefix) is not None]


def list_all(export: Objects, job_prefix: str) -> Sequence[CheckpointPlace]:
    """Return every checkpoint with at least one file, newest first."""
    places = {place_in(stat.name) for stat in export.list(checkpoints_folder(job_prefix))}
    return sorted((place for place in places if place is not None), reverse=True)
