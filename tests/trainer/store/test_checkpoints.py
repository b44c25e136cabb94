"""Checkpoints in a bucket: fetched once, and pruned."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gemtune.embedded.folder_objects import FolderObjects
from gemtune.training_files.checkpoints import list_checkpoints
from trainer.store import checkpoints


class Bucket(FolderObjects):
    """Objects that have to be copied to be read, as on Cloud Storage."""

    def fetch_folder(self, prefix: str, into: Path, *, in_place: bool = False) -> Path:
        shutil.copytree(super().fetch_folder(prefix, into), into)
        return into


def save(bucket: Bucket, tmp_path: Path, train_step: int) -> None:
    folder = tmp_path / f"checkpoint-{train_step}"
    folder.mkdir()
    for name in (*checkpoints.REQUIRED_FILES, f"of-{train_step}"):
        (folder / name).write_text(str(train_step))
    checkpoints.Saving.begin(bucket, job_prefix="jobs/j", attempt=1, train_step=train_step).finish(folder)


def test_the_newest_complete_checkpoint_is_fetched_without_leftovers_of_others(tmp_path: Path) -> None:
    bucket = Bucket(tmp_path / "bucket", "export")
    for train_step in (5, 10):
        save(bucket, tmp_path, train_step)
    # The same size as before, with other content.
    bucket.write("jobs/j/checkpoints/1/checkpoint-10/optimizer.pt", b"99")
    newest = checkpoints.newest(bucket, "jobs/j", tmp_path / "resumed")
    assert newest is not None
    assert newest[0].train_step == 5
    assert {path.name for path in newest[1].iterdir()} == {*checkpoints.REQUIRED_FILES, "of-5", "manifest.json"}
    assert [path.name for path in (tmp_path / "resumed").iterdir()] == ["checkpoint-5"]


def test_pruning_keeps_the_newest_two_and_the_best(tmp_path: Path) -> None:
    bucket = Bucket(tmp_path / "bucket", "export")
    for train_step in (2, 4, 6, 8, 10):
        save(bucket, tmp_path, train_step)
        checkpoints.prune(bucket, "jobs/j", best=4)
    assert [checkpoint.train_step for checkpoint in checkpoints.list_all(bucket, "jobs/j")] == [10, 8, 4]
    best = checkpoints.at_train_step(bucket, "jobs/j", 4, tmp_path / "best")
    assert best is not None
    assert (best / "of-4").read_text() == "4"
    assert checkpoints.at_train_step(bucket, "jobs/j", 6, tmp_path / "gone") is None


def test_the_service_lists_what_the_trainer_has_saved(tmp_path: Path) -> None:
    bucket = Bucket(tmp_path / "bucket", "export")
    for train_step in (2, 4, 6):
        save(bucket, tmp_path, train_step)
    checkpoints.prune(bucket, "jobs/j")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "optimizer.pt").touch()
    checkpoints.Saving.begin(bucket, job_prefix="jobs/j", attempt=1, train_step=8).upload(tmp_path / "unfinished")
    listed = list_checkpoints(bucket, "j")
    assert [each.train_step for each in listed] == [6, 4]
    assert [each.train_step for each in listed] == [
        place.train_step for place in checkpoints.list_complete(bucket, "jobs/j")
    ]


def test_what_is_uploaded_of_a_checkpoint_leaves_the_disk_before_the_rest_is_saved(tmp_path: Path) -> None:
    bucket, folder = FolderObjects(tmp_path / "bucket", "export"), tmp_path / "checkpoint-3"
    saving = checkpoints.Saving.begin(bucket, job_prefix="jobs/j", attempt=1, train_step=3)
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")
    (folder / "tokenizer.json").write_text("of the base model")
    saving.upload(folder)
    assert list(folder.iterdir()) == []
    assert checkpoints.newest(bucket, "jobs/j", tmp_path / "resumed") is None  # not complete yet
    for name in checkpoints.REQUIRED_FILES[1:]:
        (folder / name).write_text(name)
    with pytest.raises(OSError, match=r"lacks trainer_state\.json"):
        saving.finish(folder)
    (folder / "trainer_state.json").write_text("{}")
    saving.finish(folder)
    assert not folder.exists()
    newest = checkpoints.newest(bucket, "jobs/j", tmp_path / "resumed")
    assert newest is not None
    assert {path.name for path in newest[1].iterdir()} == {
        "model.safetensors",
        "manifest.json",
        *checkpoints.REQUIRED_FILES,
    }
    assert not (tmp_path / "resumed").exists()  # it is read in place
