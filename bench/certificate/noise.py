"""Gaussian noise on a whole export, as strong as the certificate lets pass.

The export must still do its task: what passes answers as many questions right as the trained model, or two fewer, on
rows that the certificate did not see.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

from bench.certificate.jobs import THOROUGH, UNSEEN, TinyJob, answer_of
from gemtune.request.exports import Format, GgufExport, Quantization, export_of
from trainer.base_model.four_bits import is_quantized
from trainer.certificate.runtimes import LlamaCpp, Runtime, Transformers
from trainer.export.merge import merge
from trainer.gguf.quantizer import quantize

# Strengths of noise, as shares of each tensor's standard deviation, and halvings of the interval (of logarithms).
WEAKEST, STRONGEST, HALVINGS = 1e-4, 1.0, 6
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


@dataclass(frozen=True, slots=True)
class Trial:
    """Result for one export.

    strength: of the strongest noise that passes, as a share of each tensor's standard deviation; 0 if none does.
    right, right_honest, right_trained: right answers with that noise, without any, and of the trained model.
    """

    name: str
    strength: float
    right: int
    right_honest: int
    right_trained: int

    def cells(self) -> Sequence[str]:
        """Return the row of a table."""
        counts = (self.right_honest, self.right, self.right_trained, len(UNSEEN))
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
    trials = []
    for method, exports in EXPORTS.items():
        job = jobs[method]
        right_trained = right_answers(Transformers(job.trained.base, job.trained.adapter))
        for export_format, quantization in exports:
            trials.append(
                _trial(f"{method}, {export_format} {quantization}", job, export_format, quantization, right_trained)
            )
            print(trials[-1], file=sys.stderr, flush=True)
    return trials


def _trial(name: str, job: TinyJob, export_format: Format, quantization: Quantization, right_trained: int) -> Trial:
    """Find the strongest noise with which an export passes."""

    def certified(strength: float) -> Path | None:
        """Return the folder of an export with noise, or None if it is refused."""
        folder = write(job, export_format, quantization, strength)
        if job.refusal(export_format, quantization, folder) == "":
            return folder
        shutil.rmtree(folder)
        return None

    honest = certified(0.0)
    if honest is None:
        raise RuntimeError(f"{name} is refused without any noise")
    right_honest = right_answers(_loaded(job, export_format, quantization, honest))
    low, high, passing = WEAKEST, STRONGEST, honest
    if (weakest := certified(WEAKEST)) is None:
        return Trial(name, 0.0, right_honest, right_honest, right_trained)
    passing = weakest
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        folder = certified(middle)
        if folder is None:
            high = middle
        else:
            low, passing = middle, folder
    right = right_answers(_loaded(job, export_format, quantization, passing))
    return Trial(name, low, right, right_honest, right_trained)


def write(job: TinyJob, export_format: Format, quantization: Quantization, strength: float) -> Path:
    """Write an export of the trained model with noise on its layers' matrices.

    That of the embedding has more bits in most formats, and would set the limit for all. The noise is added before
    rounding, so that the file has the rounding of its format. Returns the folder.
    """
    export, context = export_of(export_format, quantization), job.of(export_format, quantization)
    exact: Quantization = "f16" if isinstance(export, GgufExport) else "none"
    whole, folder = context.work / "whole", context.work / "exported"
    shutil.copytree(job.exact(export_format, exact), whole)
    if not isinstance(export, GgufExport):
        _add_noise(whole / "model.safetensors", strength)
        merge(whole, None, folder, export.quantization)
        return folder
    noisy = whole / "model-f16.gguf"
    _add_noise_to_gguf(noisy, strength)
    if export.converted:
        return whole
    folder.mkdir()
    quantize(context.llama_cpp, noisy, folder / export.file_name, export.llama_type)
    (folder / "Modelfile").write_text((whole / "Modelfile").read_text().replace(noisy.name, export.file_name))
    shutil.rmtree(whole)
    return folder


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
    """Add noise to the matrices of the layers of a file in f16."""
    generator = np.random.default_rng(7)
    for tensor in GGUFReader(file, "r+").tensors:
        if tensor.name.startswith("blk.") and tensor.data.dtype == np.float16:
            values = tensor.data.astype(np.float32)
            noise = generator.standard_normal(values.shape, dtype=np.float32)
            tensor.data[...] = (values + strength * values.std() * noise).astype(np.float16)


def _loaded(job: TinyJob, export_format: Format, quantization: Quantization, folder: Path) -> Runtime:
    export = export_of(export_format, quantization)
    if isinstance(export, GgufExport):
        return LlamaCpp(folder / export.file_name, job.trained.folder, job.context.llama_cpp)
    return Transformers(folder)


def right_answers(runtime: Runtime) -> int:
    """Return how many rows unseen by the certificate are answered right."""
    return sum(answer == expected for answer, expected in _answers(runtime, UNSEEN))


def _answers(runtime: Runtime, chats: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the answer to each row, and the right one."""
    for chat in chats:
        messages, expected = answer_of(chat)
        tokens = runtime.prompts(messages, {})["chat template"]
        yield runtime.text(runtime.answer(tokens, ANSWER_TOKENS)).strip(), expected
