"""Which machine a job gets: at once when its base model's size is known, else when `prepare` has its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gemtune.errors import NeedsLargerMachine, ObjectNotFound, Problem, RequestRefused, UnsafeName
from gemtune.machines import choice, model_size
from gemtune.machines.memory import Load, needed_for_export
from gemtune.machines.model_size import ModelSize
from gemtune.ports import Buckets, Objects
from gemtune.request import base_model
from gemtune.request.spec import Spec

LOC = ("training_config", "machine")
# Where trainer/base_model/hub_download.py copies models to, in the export bucket.
CACHED = "models"
EXPORT_LOC = ("export_config", "format")


@dataclass(frozen=True, slots=True)
class Placement:
    buckets: Buckets
    here: Sequence[str]  # the machines of this deployment

    def machine(self, spec: Spec) -> str | None:
        """The machine, None while the model's size is unknown. Raises RequestRefused."""
        config = spec.training_config
        if config.machine is not None and config.machine not in self.here:
            hint = f"use one of {', '.join(self.here)}, or leave it out"
            message = f"this deployment has no machine {config.machine!r}"
            raise RequestRefused([Problem(LOC, message, "machine_not_here", hint)])
        size = None if choice.LOCAL in self.here else self._size(config.base_model_id)
        try:
            return choice.choose(self.here, config.machine, size, Load.of(config, spec.modality))
        except NeedsLargerMachine as error:
            raise RequestRefused([Problem(LOC, error.message, error.code, error.hint)]) from error

    def export_machine(self, spec: Spec) -> str | None:
        """The machine whose memory its export needs; None for the one that exports have. Raises RequestRefused."""
        size = None if choice.LOCAL in self.here else self._size(spec.training_config.base_model_id)
        if size is None:
            return None
        try:
            need = needed_for_export(size, spec.training_config.method, spec.export_config)
            return choice.choose_for_export(self.here, need)
        except NeedsLargerMachine as error:
            raise RequestRefused([Problem(EXPORT_LOC, error.message, error.code, error.hint)]) from error

    def problems(self, spec: Spec) -> list[Problem]:
        return _problems(self.machine, spec)

    def export_problems(self, spec: Spec) -> list[Problem]:
        return _problems(self.export_machine, spec)

    def _size(self, base_model_id: str) -> ModelSize | None:
        named = base_model.read(base_model_id)
        if named is None or named.kind == "folder":
            return None
        if named.kind == "hub":
            return model_size.by_name(named.place) or self._cached(named.place)
        bucket, _, folder = named.place.partition("/")
        objects = self.buckets.named(bucket)
        return None if objects is None else size_in(objects, folder)

    def _cached(self, repository: str) -> ModelSize | None:
        """The size of a model that `prepare` has copied from the Hub before, by any of its revisions."""
        found = (stat.name for stat in self.buckets.export.list(f"{CACHED}/{repository.replace('/', '--')}/"))
        folder = next((name.removesuffix("/config.json") for name in found if name.endswith("/config.json")), None)
        return None if folder is None else size_in(self.buckets.export, folder)


def _problems(choose: Callable[[Spec], object], spec: Spec) -> list[Problem]:
    try:
        choose(spec)
    except RequestRefused as error:
        return list(error.problems)
    return []


def size_in(objects: Objects, folder: str) -> ModelSize | None:
    """The size of the model in a folder of a bucket; None when it is not there, or says nothing of itself."""
    try:
        config = json.loads(objects.read(f"{folder}/config.json"))
        weights = [stat.bytes for stat in objects.list(f"{folder}/") if stat.name.endswith(".safetensors")]
    except (ObjectNotFound, UnsafeName, ValueError):
        return None
    total = sum(weights)
    return model_size.of_folder(config, total) if isinstance(config, dict) and total else None
