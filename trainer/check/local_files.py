"""Datasets in files of this machine that were not uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from gemtune.checks.task import LocalSource
from gemtune.datasets.files.splits import Splits
from trainer.dataset import source
from trainer.dataset.local_folder import LocalFolder
from trainer.dataset.source import Dataset


class LocalFiles(LocalFolder):
    """Single files of this machine, by the paths that their owner wrote."""

    def __init__(self, files: list[str]):
        super().__init__(Path())
        self._files = files

    @property
    def place(self) -> str:
        """Path of the first file."""
        return self._files[0]

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file."""
        return {file: Path(file).stat().st_size for file in self._files}


def find(local: LocalSource) -> Dataset:
    """Return the dataset in local files. Raises StepError."""
    path = Path(local.train)
    if path.is_dir():
        return source.in_folder(LocalFolder(path), prefix="", dataset_id=local.train)
    files = [local.train] if local.held_out is None else [local.train, local.held_out]
    return Dataset(LocalFiles(files), Splits(tuple(files[:1]), tuple(files[1:])))
