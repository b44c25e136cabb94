"""Files of the model to ask: located from a job's record, or downloaded."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from gemtune.bootstrap import Services, services
from gemtune.errors import StepError
from gemtune.jobs.record import Job
from gemtune.jobs.status import Status, Step
from gemtune.methods import Modality
from gemtune.ports import Buckets
from gemtune.request import base_model
from gemtune.request.exports import Format
from gemtune.request.spec import Spec, read_spec
from gemtune.settings import Settings
from trainer.answers.runtime import AnswerFiles, GgufFiles, TransformersFiles
from trainer.base_model import folder_contents, hub_download
from trainer.export import tokenizer_files, trained_weights
from trainer.new_tokens import embedding, tokenizer
from trainer.store import checkpoints, manifest

# Completed jobs that are searched for an export, newest first.
SEARCHED_PAGES, JOBS_PER_PAGE = 5, 200
# Files of a checkpoint that only a training reads.
NOT_ASKED = shutil.ignore_patterns("*.pt", "*.pth", manifest.NAME)


@dataclass(frozen=True, slots=True)
class TrainedJob:
    """A job on this machine whose model is asked.

    work: folder for copies. tools: the folder of llama.cpp.
    """

    job: Job
    spec: Spec
    buckets: Buckets
    work: Path
    tools: Path

    def trained(self) -> TransformersFiles:
        """Return the weights as they were trained.

        Raises IncompleteFolder, StepError.
        """
        weights = trained_weights.of_job(self.buckets, self.job, self.spec.training_config.method, self.work)
        return self._files(weights.base, weights.adapter)

    def checkpoint(self, train_step: int) -> TransformersFiles:
        """Return the weights of a checkpoint.

        Raises IncompleteFolder, and StepError `no_checkpoint` if there is none of this train_step.
        """
        export, prefix = self.buckets.export, f"jobs/{self.job.trained_by}"
        saved = checkpoints.at_train_step(export, prefix, train_step, self.work / "checkpoint")
        if saved is None:
            raise self._no_checkpoint(train_step)
        folder = self.work / "checkpoint_with_tokenizer"
        # Tokenizer files are written over those of the copy; training may still resume from the checkpoint itself.
        shutil.copytree(saved, folder, ignore=NOT_ASKED, copy_function=folder_contents.copy_or_link)
        base, prepared = self._base(), self._prepared()
        with_tokens = tokenizer.with_new_tokens(base, prepared, self.work / "base_with_new_tokens")
        tokenizer_files.add_tokenizer(with_tokens, folder)
        is_whole = tokenizer_files.trained_folder(self.spec.training_config.method) == "model"
        if is_whole:
            return self._files(folder, None)
        if (new_tokens := embedding.read(prepared)) is not None:
            new_tokens.write(folder)
        return self._files(base, folder)

    def exported(self) -> AnswerFiles:
        """Return the files of the job's export. Raises IncompleteFolder."""
        attempt = self.job.steps[Step.EXPORT].attempt
        folder = manifest.fetch(self.buckets.export, f"jobs/{self.job.job_id}/export/{attempt}", self.work / "exported")
        if self.spec.export_config.format == "gguf":
            return GgufFiles(gguf_file(folder), self.tools)
        if (folder / "adapter_config.json").is_file():
            return TransformersFiles(self._base(), folder, folder, modality=self.spec.modality)
        return self._whole(folder)

    def _files(self, model: Path, adapter: Path | None) -> TransformersFiles:
        """Return trained weights as the train step computes with them."""
        if adapter is None:
            return self._whole(model)
        in_four_bits = self.spec.training_config.method == "QLoRA"
        dtype = json.loads((self._prepared() / "prepared.json").read_text()).get("base_dtype")
        return TransformersFiles(
            model, adapter, adapter, dtype=dtype, in_four_bits=in_four_bits, modality=self.spec.modality
        )

    def _whole(self, model: Path) -> TransformersFiles:
        """Return a whole model beside the base model that it was trained from."""
        prepared = self._prepared()
        original = trained_weights.base_of(self.buckets, prepared, self.work)
        return TransformersFiles(model, None, model, original, embedding.read(prepared), modality=self.spec.modality)

    def _base(self) -> Path:
        return trained_weights.base_of(self.buckets, self._prepared(), self.work)

    def _prepared(self) -> Path:
        prefix = f"jobs/{self.job.trained_by}/prepared/{self.job.steps[Step.PREPARE].attempt}"
        return manifest.fetch(self.buckets.export, prefix, self.work / "prepared")

    def _no_checkpoint(self, train_step: int) -> StepError:
        """Return the error for a checkpoint that does not exist."""
        existing = checkpoints.list_complete(self.buckets.export, f"jobs/{self.job.trained_by}")
        steps = ", ".join(str(step) for step in sorted({each.train_step for each in existing}))
        message = f"job {self.job.job_id} has no checkpoint of train_step {train_step}"
        if steps:
            return StepError("no_checkpoint", message, hint=f"use --checkpoint with one of {steps}")
        hint = "the checkpoints of a finished training are deleted: leave out --checkpoint"
        if not self.job.has_trained:
            hint = "the training has no checkpoint yet: try again later"
        return StepError("no_checkpoint", message, hint=hint)


def locate(arguments: argparse.Namespace, work: Path) -> AnswerFiles:
    """Return the files of the model that the command line names.

    work: folder for copies. Raises GemtuneError.
    """
    if arguments.folder is not None:
        tools = Settings.from_environment().llama_cpp
        return of_download(arguments.folder, arguments.base_model, tools, modality=arguments.modality)
    backend = services()
    job = backend.store.get(arguments.job)
    if arguments.format is not None:
        job, spec = find_export(backend, job, arguments.format)
    else:
        spec = read_spec(backend.buckets.config.read(job.spec_name))
    trained = TrainedJob(job, spec, backend.buckets, work, backend.settings.llama_cpp)
    if arguments.checkpoint is not None:
        return trained.checkpoint(arguments.checkpoint)
    return trained.trained() if arguments.format is None else trained.exported()


def find_export(backend: Services, job: Job, export_format: Format) -> tuple[Job, Spec]:
    """Return the completed job whose export has a format, and its spec.

    It is the job itself, or the newest one that exported again what this one trained. Raises StepError `not_exported`.
    """
    page_token: str | None = None
    candidates = [job]
    for _ in range(SEARCHED_PAGES):
        page = backend.store.page(status=Status.COMPLETED, modality=None, limit=JOBS_PER_PAGE, page_token=page_token)
        exports = [summary.job_id for summary in page.jobs if summary.job_id.startswith("export_")]
        candidates += [each for each in map(backend.store.get, exports) if each.trained_by == job.trained_by]
        page_token = page.next_page_token
        if page_token is None:
            break
    for candidate in candidates:
        spec = read_spec(backend.buckets.config.read(candidate.spec_name))
        if candidate.status is Status.COMPLETED and spec.export_config.format == export_format:
            return candidate, spec
    message = f"the model of job {job.job_id} has not been exported as {export_format}"
    raise StepError("not_exported", message, hint=f"`gemtune export {job.job_id} --format {export_format} --follow`")


def of_download(folder: Path, base_model_id: str, tools: Path, *, modality: Modality) -> AnswerFiles:
    """Return the files of an export that was downloaded.

    base_model_id: of an adapter: a Hub id, or a folder of this machine. tools: the folder of llama.cpp. modality: of
    the training. Raises StepError if the base model cannot be had.
    """
    if any(folder.glob("*.gguf")):
        return GgufFiles(gguf_file(folder), tools)
    if not (folder / "adapter_config.json").is_file():
        return TransformersFiles(folder, None, folder, modality=modality)
    parsed = base_model.parse(base_model_id)
    if parsed is not None and parsed.kind == "hub":
        from huggingface_hub import get_token

        base = hub_download.fetch_whole(parsed.place, token=get_token)
        return TransformersFiles(base, folder, folder, modality=modality)
    if not Path(base_model_id).is_dir():
        message = f"the adapter's base model {base_model_id} is not on this machine"
        raise StepError("base_model_not_found", message, hint="name a folder or a Hub id of it with --base-model")
    return TransformersFiles(Path(base_model_id), folder, folder, modality=modality)


def gguf_file(folder: Path) -> Path:
    """Return the GGUF file of an export with the language model."""
    return next(path for path in sorted(folder.glob("*.gguf")) if path.name.startswith("model-"))
