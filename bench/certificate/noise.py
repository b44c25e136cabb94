"""Gaussian noise on a whole export, as strong as the certificate lets pass.

The export must still do its task: what passes answers as many questions right as the trained model, or two fewer, on
rows that the certificate did not see.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

import examples.capitals
from bench.certificate.jobs import THOROUGH, UNSEEN, Rows, TinyJob, answer_of
from gemtune.request.exports import Format, GgufExport, Quantization, export_of
from trainer.base_model.four_bits import is_quantized
from trainer.certificate.runtimes import LlamaCpp, Runtime, Transformers
from trainer.export.merge import merge
from trainer.gguf import conversion
from trainer.gguf.dither import bfloat16, float32
from trainer.gguf.llama_library import LlamaModel

# Strengths of noise, as shares of each tensor's standard deviation, and halvings of the interval (of logarithms): for
# tiny models, and for those of people, whose exports take minutes.
WEAKEST, STRONGEST, HALVINGS, FEW_HALVINGS = 1e-4, 1.0, 6, 4
# Tokens of an answer; the right ones are shorter.
ANSWER_TOKENS = 24
EXPORTS: Mapping[str, tuple[tuple[Format, Quantization], ...]] = {
    "LoRA": (
        ("merged", "none"),
        ("merged", "q4"),
        ("gguf", "f16"),
        ("gguf", "q8_0"),
        ("gguf", "q4_k_m"),
        ("gguf", "q2_k"),
    ),
    "Full": (("merged", "q4"), ("gguf", "q8_0"), ("gguf", "q4_k_m")),
}
# Exports of a model of people by name, the fields of its training_config, and how many rows of its task are asked that
# no certificate sees.
OF_LARGER: Mapping[str, tuple[Format, Quantization]] = {
    "gguf:q4_k_m": ("gguf", "q4_k_m"),
    "merged:q4": ("merged", "q4"),
    "merged:none": ("merged", "none"),
}
TRAINING: Mapping[str, Any] = {"learning_rate": 5e-4, "max_steps": 60, "lora_rank": 16, "lora_alpha": 16.0}
QUESTIONS = 24


@dataclass(frozen=True, slots=True)
class Trial:
    """Result for one export.

    strength: of the strongest noise that passes, as a share of each tensor's standard deviation; 0 if none does.
    right, right_honest, right_trained: right answers with that noise, without any, and of the trained model.
    questions: how many were asked.
    """

    name: str
    strength: float
    right: int
    right_honest: int
    right_trained: int
    questions: int

    def cells(self) -> Sequence[str]:
        """Return the row of a table."""
        counts = (self.right_honest, self.right, self.right_trained, self.questions)
        return (self.name, f"{self.strength:.5f}", *map(str, counts))


def run(work: Path, base: Path) -> list[Trial]:
    """Search the strongest noise for each export.

    base: a taught model of the shape gemma3.
    """
    jobs = {
        # Without its embeddings a tiny model hardly learns a new word: 8 of 56 right answers instead of 50.
        "LoRA": TinyJob(work / "lora", base=base, training=dict(THOROUGH) | {"train_embeddings": True}),
        "Full": TinyJob(work / "full", base=base, training=dict(THOROUGH) | {"method": "Full", "learning_rate": 1e-3}),
    }
    return [
        trial
        for method, exports in EXPORTS.items()
        for trial in _trials(_Search(method, jobs[method], UNSEEN, HALVINGS), exports)
    ]


def run_on(work: Path, base: Path, exports: Sequence[tuple[Format, Quantization]]) -> list[Trial]:
    """Search the strongest noise for exports of any Gemma, after LoRA.

    It learns the example dataset of capitals, a task that noise can take from it: to know what no question says.
    base: the folder of the base model. exports: values of OF_LARGER.
    """
    train, held_out = (_example_rows(name) for name in ("train", "eval"))
    unseen = [*held_out[1::2], *train][:QUESTIONS]
    job = TinyJob(work / "lora", base=base, lessons=train, held_out=held_out[::2], training=TRAINING)
    return list(_trials(_Search(f"LoRA of {base.name}", job, unseen, FEW_HALVINGS), exports))


def _example_rows(split: str) -> Rows:
    path = Path(examples.capitals.__file__).with_name(f"{split}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@dataclass(frozen=True, slots=True)
class _Search:
    """Search for the strongest noise with which exports of a job pass.

    name: of the trained model. questions: rows that the certificate does not see.
    """

    name: str
    job: TinyJob
    questions: Rows
    halvings: int

    def certified(self, export_format: Format, quantization: Quantization, strength: float) -> Path | None:
        """Return the folder of an export with noise, or None if it is refused."""
        folder, note = write(self.job, export_format, quantization, strength)
        refusal = self.job.refusal(export_format, quantization, folder, note)
        print(f"{self.name}, {quantization}, {strength:.5f}: {refusal or 'certified'}", file=sys.stderr, flush=True)
        if refusal == "":
            return folder
        shutil.rmtree(folder)
        return None

    def right_answers(self, export_format: Format, quantization: Quantization, folder: Path) -> int:
        """Return how many questions an export answers right."""
        return right_answers(_loaded(self.job, export_format, quantization, folder), self.questions)


def _trials(search: _Search, exports: Sequence[tuple[Format, Quantization]]) -> Iterator[Trial]:
    """Yield the trial of each export."""
    trained = search.job.trained
    right_trained = right_answers(Transformers(trained.base, trained.adapter), search.questions)
    for export_format, quantization in exports:
        trial = _trial(search, export_format, quantization, right_trained)
        print(trial, file=sys.stderr, flush=True)
        yield trial


def _trial(search: _Search, export_format: Format, quantization: Quantization, right_trained: int) -> Trial:
    """Find the strongest noise with which an export passes."""
    name = f"{search.name}, {export_format} {quantization}"
    honest = search.certified(export_format, quantization, 0.0)
    if honest is None:
        raise RuntimeError(f"{name} is refused without any noise")
    right_honest = search.right_answers(export_format, quantization, honest)
    low, high, passing = 0.0, STRONGEST, honest
    for halving in range(1 + search.halvings):
        middle = WEAKEST if halving == 0 else (low * high) ** 0.5
        folder = search.certified(export_format, quantization, middle)
        if folder is not None:
            low, passing = middle, folder
        elif halving == 0:
            break
        else:
            high = middle
    right = right_honest if passing is honest else search.right_answers(export_format, quantization, passing)
    return Trial(name, low, right, right_honest, right_trained, len(search.questions))


def write(job: TinyJob, export_format: Format, quantization: Quantization, strength: float) -> tuple[Path, str]:
    """Write an export of the trained model with noise on its layers' matrices.

    That of the embedding has more bits in most formats, and would set the limit for all. The noise is added before
    rounding, so that the file has the rounding of its format. Returns the folder, and a note for the certificate.
    """
    export, context = export_of(export_format, quantization), job.of(export_format, quantization)
    whole, folder = context.work / "whole", context.work / "exported"
    if not isinstance(export, GgufExport):
        shutil.copytree(job.exact(export_format, "none"), whole)
        _add_noise(whole / "model.safetensors", strength)
        merge(whole, None, folder, export.quantization)
        shutil.rmtree(whole)
        return folder, ""
    target = folder / export.file_name
    if export.converted:
        shutil.copytree(job.exact(export_format, quantization), folder)
        _add_noise_to_gguf(target, strength)
        return folder, ""
    folder.mkdir()
    shutil.copyfile(job.exact(export_format, quantization) / "Modelfile", folder / "Modelfile")
    noisy = Path(shutil.copyfile(job.in_bf16, context.work / "noisy.gguf"))
    _add_noise_to_gguf(noisy, strength)
    untrained = () if context.spec.training_config.train_embeddings else (conversion.EMBEDDING,)
    dithered = conversion.quantize(noisy, target, export.llama_type, context.llama_cpp, untrained)
    noisy.unlink()
    return folder, "dithered" if dithered else ""


def _add_noise(file: Path, strength: float) -> None:
    generator = torch.Generator().manual_seed(7)
    weights = load_file(file)
    for name, weight in weights.items():
        if is_quantized(name):
            values = weight.float()
            noise = torch.randn(values.shape, generator=generator)
            weights[name] = (values + strength * values.std() * noise).to(weight.dtype)
    save_file(weights, file, metadata={"format": "pt"})


def _add_noise_to_gguf(file: Path, strength: float) -> None:
    """Add noise to the matrices of the layers of a file in 16 bits."""
    generator = np.random.default_rng(7)
    for tensor in GGUFReader(file, "r+").tensors:
        if not tensor.name.startswith("blk.") or tensor.tensor_type not in (Type.F16, Type.BF16):
            continue
        is_half = tensor.tensor_type == Type.F16
        values = tensor.data.astype(np.float32) if is_half else float32(tensor.data.view(np.uint16))
        values += strength * values.std() * generator.standard_normal(values.shape, dtype=np.float32)
        tensor.data[...] = values.astype(np.float16) if is_half else bfloat16(values).view(tensor.data.dtype)


def _loaded(job: TinyJob, export_format: Format, quantization: Quantization, folder: Path) -> Runtime:
    export = export_of(export_format, quantization)
    if isinstance(export, GgufExport):
        model = LlamaModel(job.context.llama_cpp, folder / export.file_name)
        return LlamaCpp(model, folder, job.trained.folder)
    return Transformers(folder)


def right_answers(runtime: Runtime, questions: Rows) -> int:
    """Return how many rows unseen by the certificate are answered right."""
    return sum(answer == expected for answer, expected in _answers(runtime, questions))


def _answers(runtime: Runtime, chats: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the answer to each row, and the right one."""
    for chat in chats:
        messages, expected = answer_of(chat)
        tokens = runtime.prompts(messages, {})["chat template"]
        yield runtime.text(runtime.answer(tokens, ANSWER_TOKENS)).strip(), expected
