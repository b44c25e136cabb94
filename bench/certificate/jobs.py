"""Tiny trained jobs, and certificates of their exports."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from gemtune.jobs.status import Step
from gemtune.request.exports import Format, Quantization
from gemtune.request.spec import ExportConfig
from tests import preference_rows, rows, tiny_gemma
from tests.trainer.conftest import Bench
from trainer.certificate import comparison, parity_check
from trainer.certificate.parity_check import LosesTooMuch
from trainer.context import Context
from trainer.export import trained_weights
from trainer.export.trained_weights import TrainedWeights
from trainer.steps import export, export_files

Rows = Sequence[dict[str, Any]]
# The rows that the certificate compares on, and those that it does not see. The latter are trained on, so that a tiny
# model answers most of them right.
SEEN: Rows = rows.held_out_rows(16)[::2]
UNSEEN: Rows = [*rows.train_rows(48), *rows.held_out_rows(16)[1::2]]
# Fields of training_config with which tiny models learn something in seconds; and those with which a taught model
# learns to answer most rows right in a minute.
LEARNING: Mapping[str, Any] = {"learning_rate": 5e-3, "batch_size": 8, "max_steps": 60, "save_steps": 1000}
THOROUGH: Mapping[str, Any] = {"learning_rate": 2e-3, "max_steps": 200}


@dataclass(frozen=True)
class TinyJob:
    """A job on a tiny model, trained when it is first used.

    work: a folder of its own. shape: a key of `tiny_shapes.SHAPES`. base: a model of the shape with other weights.
    preferences: whether it learns from pairs of answers. lessons: the rows that it learns. held_out: those that the
    certificate compares on. training: fields of training_config.
    """

    work: Path
    shape: str = "gemma3"
    base: Path | None = None
    preferences: bool = False
    lessons: Rows = field(default_factory=lambda: UNSEEN)
    held_out: Rows = field(default_factory=lambda: SEEN)
    training: Mapping[str, Any] = field(default_factory=dict)
    _exact: dict[tuple[Format, Quantization], Path] = field(default_factory=dict)

    @cached_property
    def context(self) -> Context:
        """The context of the job's export step."""
        self.work.mkdir(parents=True)
        base = self.base or tiny_gemma.build(self.work / "base", self.shape, head_dim=head_dim(self.shape))
        bench = Bench(self.work / "home", base, **(dict(LEARNING) | dict(self.training)))
        for split, chats in (("train", self.lessons), ("eval", self.held_out)):
            bench.put(split, preference_rows.pairs(list(chats)) if self.preferences else list(chats))
        bench.to(Step.TRAIN)
        return bench.context(Step.EXPORT)

    @cached_property
    def trained(self) -> TrainedWeights:
        """The weights that the job trained."""
        return trained_weights.locate(self.context)

    def of(self, export_format: Format, quantization: Quantization) -> Context:
        """Return the context of an export step that writes this format."""
        config = ExportConfig.model_validate({"format": export_format, "quantization": quantization})
        spec = self.context.spec.model_copy(update={"export_config": config})
        return replace(self.context, spec=spec, work=Path(tempfile.mkdtemp(dir=self.work)))

    def write(self, export_format: Format, quantization: Quantization) -> tuple[Path, str]:
        """Write an export; return its folder, and a note for the certificate.

        Raises StepError if llama.cpp computes another function than was trained.
        """
        context = self.of(export_format, quantization)
        folder = context.work / "exported"
        certificate = replace(export.certificate_of(context, self.trained, folder, ""), compare=comparison.measure)
        check = partial(parity_check.check_function, certificate)
        return folder, export_files.write(context, self.trained, folder, check_exact=check)

    @cached_property
    def in_bf16(self) -> Path:
        """The trained model as GGUF in bf16, from which others are quantized.

        It must not be changed.
        """
        context, file = self.of("gguf", "q8_0"), self.work / "in-bf16.gguf"

        def keep(exact: Path) -> None:
            shutil.copyfile(exact, file)

        export_files.write(context, self.trained, context.work / "exported", check_exact=keep)
        shutil.rmtree(context.work)
        return file

    def exact(self, export_format: Format, quantization: Quantization) -> Path:
        """Return the folder of an export, which is written once.

        It must not be changed.
        """
        if (export_format, quantization) not in self._exact:
            self._exact[export_format, quantization], _ = self.write(export_format, quantization)
        return self._exact[export_format, quantization]

    def refusal(self, export_format: Format, quantization: Quantization, folder: Path, note: str = "") -> str:
        """Return why an export is not certified, or "" if it is.

        Raises whatever is not about the export.
        """
        context = self.of(export_format, quantization)
        try:
            trained = trained_weights.locate(context)  # which checks that the base model is that of the training
            certificate = export.certificate_of(context, trained, folder, note)
            parity_check.issue(replace(certificate, compare=comparison.measure))
        except LosesTooMuch as loss:
            return str(loss)
        except StepError as error:
            if error.code not in ("export_differs", "base_changed"):
                raise
            return error.message
        finally:
            shutil.rmtree(context.work)
        return ""


def head_dim(shape: str) -> int:
    """Return the size of attention heads with which llama.cpp loads a shape."""
    return 32 if shape.startswith("gemma4") else 256


def teach(work: Path, shape: str = "gemma3") -> Path:
    """Return a tiny base model that answers the questions in fewer words.

    Training then has a model that knows something, as real ones do, and not random weights.
    """
    lessons = [
        {"messages": [*before, {"role": "assistant", "content": short(answer)}]}
        for before, answer in map(answer_of, (*UNSEEN, *SEEN))
    ]
    job = TinyJob(work, shape, lessons=lessons, training={"method": "Full", "max_steps": 240, "learning_rate": 2e-3})
    folder, _ = job.write("merged", "none")
    return folder


def short(answer: str) -> str:
    """Return an answer without the words with which all of them begin."""
    return answer.removeprefix(rows.HABIT).strip()


def answer_of(row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Return the messages before the answer of a row, and the answer."""
    *before, answer = row["messages"]
    return list(before), answer["content"]
