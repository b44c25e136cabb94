"""Facts that a request is checked against.

Each object and each listing is read once, and only if the request depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gemtune.errors import ObjectNotFound, Problem, SecretNotFound, UnsafeName
from gemtune.families.size import ModelSize
from gemtune.jobs.secret_names import REFERENCE
from gemtune.machines import model_size
from gemtune.machines.choice import LOCAL
from gemtune.ports import Buckets, Objects, Secrets
from gemtune.request import base_model
from gemtune.request.base_model import ModelFiles
from gemtune.request.facts import Deployment, Facts
from gemtune.request.spec import Spec, TrainRequest
from gemtune.services.acceptance.read_dataset import describe_dataset
from gemtune.untrusted import MAX_BYTES, read_file


@dataclass(frozen=True, slots=True)
class ReadFacts:
    """Service that reads the facts of a request.

    find_gguf_problem: returns why this deployment cannot write GGUF, or None.
    """

    deployment: Deployment
    buckets: Buckets
    secrets: Secrets
    find_gguf_problem: Callable[[], Problem | None]

    def __call__(self, request: TrainRequest, *, trains: bool = True, model_folder: str | None = None) -> Facts:
        """Return the facts that the rules need.

        trains: whether the request trains. If it only exports again, its dataset is not looked at. model_folder: the
        folder of the export bucket with the base model, if another job trained it.
        """
        files, dataset = self._base_model(request), None
        if model_folder is not None:
            files = self._files_in(self.buckets.export, model_folder)
        if trains:
            dataset = describe_dataset(
                self.buckets.data, request.processed_dataset_id, with_columns=request.infers_rl_algorithm
            )
        return Facts(
            self.deployment,
            dataset=dataset,
            base_model=files,
            base_is_trained=model_folder is not None,
            size=self._size(request, files),
            missing_secrets=self._missing_secrets(request),
            gguf_problem=self.find_gguf_problem() if request.export_config.format == "gguf" else None,
        )

    def _base_model(self, request: Spec) -> ModelFiles | None:
        """Describe the base model's folder.

        None if there is no folder to read: the id is invalid, local folders are not allowed, or the size of a Hub model
        is known from its name.
        """
        model = base_model.parse(request.training_config.base_model_id)
        if model is None:
            return None
        match model.kind:
            case "folder":
                return _files_of_folder(Path(model.place)) if self.deployment.local_folders else None
            case "gs":
                bucket, _, folder = model.place.partition("/")
                objects = self.buckets.named(bucket)
                if objects is None:
                    return ModelFiles(None)
                return self._files_in(objects, folder)
            case "hub":
                if model_size.by_name(model.place) is not None:
                    return None
                return self._files_of_copy(model.place)

    def _files_in(self, objects: Objects, folder: str) -> ModelFiles:
        """Describe a base model in a folder of a bucket.

        Files are listed only where their sizes are needed.
        """
        try:
            listed = objects.list(f"{folder}/") if self._chooses_machine else ()
            names = {stat.name: stat.bytes for stat in listed}
            return base_model.describe_folder(lambda: _read_config(objects, f"{folder}/config.json"), names)
        except UnsafeName as error:
            return ModelFiles(None, error.message)

    def _files_of_copy(self, repository: str) -> ModelFiles | None:
        """Describe an earlier copy of a Hub repository, of any revision.

        None if there is no copy.
        """
        export = self.buckets.export
        names = {stat.name: stat.bytes for stat in export.list(f"{base_model.copies_folder(repository)}/")}
        config = next((name for name in names if name.endswith("/config.json")), None)
        if config is None:
            return None
        folder = config.removesuffix("config.json")
        revision = {name: size for name, size in names.items() if name.startswith(folder)}
        return base_model.describe_folder(lambda: _read_config(export, config), revision)

    def _size(self, request: Spec, files: ModelFiles | None) -> ModelSize | None:
        """Return the size of the base model if a machine has to be chosen.

        None if it is unknown, or not needed.
        """
        if not self._chooses_machine:
            return None
        if files is not None:
            return files.size
        model = base_model.parse(request.training_config.base_model_id)
        return None if model is None or model.kind != "hub" else model_size.by_name(model.place)

    def size_to_plan(self, request: TrainRequest, files: ModelFiles | None) -> ModelSize | None:
        """Return the size of the base model, or None if it is unknown.

        It is known even where no machine has to be chosen. files: description of the base model's folder, if any.
        """
        model = base_model.parse(request.training_config.base_model_id)
        if model is None:
            return None
        if model.kind == "hub":
            return model_size.by_name(model.place) or (None if files is None else files.size)
        if model.kind == "gs":
            bucket, _, name = model.place.partition("/")
            objects = self.buckets.named(bucket)
            return None if objects is None or files is None else _with_weights(files, objects, name).size
        folder = Path(model.place)
        try:
            weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        except OSError:  # a link to a file that was removed; prepare says which one
            return None
        return replace(files or _files_of_folder(folder), weights_bytes=weights).size

    @property
    def _chooses_machine(self) -> bool:
        """Return whether a machine has to be chosen.

        A workstation has only itself.
        """
        return LOCAL not in self.deployment.machines

    def _missing_secrets(self, request: TrainRequest) -> frozenset[str]:
        """Return the roles whose secret is referred to but does not exist."""
        references = {role: value for role, value in request.secrets().items() if value.startswith(REFERENCE)}
        return frozenset(role for role, value in references.items() if not self._exists(value))

    def _exists(self, reference: str) -> bool:
        """Return whether the secret exists that a reference names."""
        try:
            self.secrets.read(reference.removeprefix(REFERENCE))
        except SecretNotFound:
            return False
        return True


def _with_weights(files: ModelFiles, objects: Objects, folder: str) -> ModelFiles:
    """Return the description of a bucket's folder with its weights counted."""
    try:
        weights = sum(stat.bytes for stat in objects.list(f"{folder}/") if stat.name.endswith(".safetensors"))
    except UnsafeName:  # a link that leads elsewhere
        return ModelFiles(None)
    return replace(files, weights_bytes=weights)


def _read_config(objects: Objects, name: str) -> bytes | None:
    """Read a config.json; None if there is none."""
    try:
        return objects.read(name, max_bytes=MAX_BYTES)
    except ObjectNotFound:
        return None


def _files_of_folder(path: Path) -> ModelFiles:
    """Describe a base model in a local folder.

    Its weights are not counted, because a workstation has no machines to choose from.
    """
    try:
        return base_model.describe_folder(lambda: read_file(path / "config.json", named="its config.json"), {})
    except OSError:
        return ModelFiles(None, absence=_absence(path))


def _absence(path: Path) -> str:
    """Return what a local folder without a config.json is instead."""
    try:
        if not path.exists():
            return "this folder does not exist"
        if not path.is_dir():
            return "this is a file, not a folder"
        if (path / "adapter_config.json").exists():
            return "this is the folder of an adapter, not of a base model"
    except OSError as error:
        return f"this folder cannot be read: {error.strerror}"
    return base_model.NO_CONFIG
