"""Base models that are at hand, and the machines that known sizes need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import get_args

from gemtune import families
from gemtune.errors import NeedsLargerMachine, ObjectNotFound, UnsafeName
from gemtune.families.size import ModelSize
from gemtune.machines.choice import LOCAL, choose_machine
from gemtune.machines.memory import MemoryNeed, TrainingLoad, memory_for_training
from gemtune.methods import Method
from gemtune.ports import Buckets, Objects
from gemtune.request import base_model
from gemtune.request.base_model import ModelFiles
from gemtune.request.placement import load_of
from gemtune.request.training_config import TrainingConfig
from gemtune.services.planning.planner import Workstation
from gemtune.untrusted import MAX_BYTES, read_file

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class MethodNeed:
    """Memory that a training with default settings needs, in GiB.

    machine: the first of the deployment's machines that has it; None if none has.
    """

    method: Method
    need: MemoryNeed
    machine: str | None


@dataclass(frozen=True, slots=True)
class ModelAtHand:
    """Base model whose files are there already.

    base_model_id: the value for a request. problem: why it cannot be trained, if so.
    """

    base_model_id: str
    family: str | None
    problem: str | None
    bytes: int
    size: ModelSize | None
    needs: Sequence[MethodNeed]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """Size of published models.

    name: part of their names on the Hub.
    """

    name: str
    family: str
    reads_pictures: bool
    reads_audio: bool
    size: ModelSize
    needs: Sequence[MethodNeed]


@dataclass(frozen=True, slots=True)
class BaseModels:
    """Service that lists base models.

    machines: names of the deployment's training machines. local_folders: folders of this machine with base models in
    folders `gemma-…`, or in the form of the Hub's cache.
    """

    buckets: Buckets
    machines: Sequence[str]
    workstation: Workstation
    local_folders: Sequence[Path] = ()

    @property
    def memory_gib(self) -> float | None:
        """Return the memory of a workstation that trains, if it is known."""
        return self.workstation.memory_gib if LOCAL in self.machines else None

    def known(self) -> list[KnownModel]:
        """Return the published sizes, family by family."""
        return [
            KnownModel(
                name,
                family.name,
                reads_pictures=family.why_no_media_by_name("vision", name) is None,
                reads_audio=family.why_no_media_by_name("audio", name) is None,
                size=size,
                needs=self._needs(size),
            )
            for family in families.FAMILIES
            for name, size in family.sizes.items()
        ]

    def at_hand(self) -> list[ModelAtHand]:
        """Return the base models whose files are there already.

        They are copies that earlier jobs made of models of the Hub, folders in `models/` of the buckets, and folders of
        this machine.
        """
        models = [*self._copies(), *self._in_buckets(), *self._in_folders()]
        return sorted(models, key=lambda model: model.base_model_id)

    def _copies(self) -> Iterator[ModelAtHand]:
        """Yield copies of the Hub's models, each in the revision copied last."""
        export = self.buckets.export
        for name in export.folders(f"{base_model.COPIES}/"):
            repository = name.replace("--", "/", 1)
            folders = [f"{base_model.COPIES}/{name}/{each}" for each in export.folders(f"{base_model.COPIES}/{name}/")]
            copied = [(at, folder) for folder in folders if (at := _copied_at(export, folder)) is not None]
            files = _in_bucket(export, max(copied)[1]) if copied else None
            if files is not None:
                yield self._describe(repository, files)

    def _in_buckets(self) -> Iterator[ModelAtHand]:
        """Yield base models that people put into `models/` of a bucket."""
        for objects in (self.buckets.data, self.buckets.uploads):
            for name in objects.folders(f"{base_model.COPIES}/"):
                files = _in_bucket(objects, f"{base_model.COPIES}/{name}")
                if files is not None:
                    yield self._describe(f"gs://{objects.bucket}/{base_model.COPIES}/{name}", files)

    def _in_folders(self) -> Iterator[ModelAtHand]:
        for parent in self.local_folders:
            for config in sorted([*parent.glob(f"gemma-*/{CONFIG}"), *parent.glob(f"models--*/snapshots/*/{CONFIG}")]):
                files = _in_folder(config.parent)
                if files is not None:
                    yield self._describe(str(config.parent), files)

    def _describe(self, base_model_id: str, files: ModelFiles) -> ModelAtHand:
        family = families.of_model_type(files.fields.get("model_type"))
        problem = files.config_problem
        if problem is None and (refusal := families.problem_of_config(files.fields)) is not None:
            problem = refusal.msg
        size = None if problem is not None else files.size
        return ModelAtHand(
            base_model_id,
            None if family is None else family.name,
            problem,
            files.weights_bytes,
            size,
            () if size is None else self._needs(size),
        )

    def _needs(self, size: ModelSize) -> list[MethodNeed]:
        """Return the need of each method with default settings."""
        needs = []
        for method in get_args(Method):
            load, need = _load_and_need(size, method)
            if LOCAL in self.machines:
                memory = self.workstation.memory_gib
                machine: str | None = LOCAL if memory is None or need.host_without_gpu <= memory else None
            else:
                try:
                    machine = choose_machine(self.machines, None, size, load)
                except NeedsLargerMachine:
                    machine = None
            needs.append(MethodNeed(method, need, machine))
        return needs


@lru_cache(maxsize=1024)  # computing it for all known sizes took 50 of the 58 ms of a list
def _load_and_need(size: ModelSize, method: Method) -> tuple[TrainingLoad, MemoryNeed]:
    """Return what a training with default settings loads, and its memory."""
    load = load_of(TrainingConfig.model_construct(base_model_id="", method=method), "text")
    return load, memory_for_training(size, load)


def _copied_at(objects: Objects, folder: str) -> datetime | None:
    """Return when a base model was copied; None without config.json."""
    try:
        stat = objects.stat(f"{folder}/{CONFIG}")
    except UnsafeName:  # a link that leads elsewhere
        return None
    return None if stat is None else stat.updated_at


def _in_bucket(objects: Objects, folder: str) -> ModelFiles | None:
    """Describe a base model in a folder of a bucket; None without config.json."""
    try:
        if objects.stat(f"{folder}/{CONFIG}") is None:
            return None
        names = {stat.name: stat.bytes for stat in objects.list(f"{folder}/")}
        return base_model.describe_folder(lambda: objects.read(f"{folder}/{CONFIG}", max_bytes=MAX_BYTES), names)
    except (UnsafeName, ObjectNotFound):  # a link that leads elsewhere, or a folder that is being deleted
        return None


def _in_folder(folder: Path) -> ModelFiles | None:
    """Describe a base model in a folder of this machine; None without weights.

    An adapter is no base model.
    """
    try:
        sizes = {file.name: file.stat().st_size for file in folder.glob("*.safetensors")}
        if not sizes or (folder / "adapter_config.json").exists():
            return None
        return base_model.describe_folder(lambda: read_file(folder / CONFIG, named="its config.json"), sizes)
    except OSError:  # a link to a file that was removed, or a folder that may not be read
        return None
