"""Honest exports: whether the certificate refuses none of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.certificate.jobs import TinyJob
from gemtune.request.exports import Format, Quantization
from tests.trainer.model.cells import KINDS

# Fields of training_config for models of other families, which take longer.
SHORT = {"max_steps": 30}
DPO = {"method": "RL", "rl_config": {"algorithm": "dpo"}, "learning_rate": 2e-3}
EXPORTS: Mapping[str, tuple[tuple[Format, Quantization], ...]] = {
    "LoRA": (
        ("adapter", "none"),
        ("merged", "none"),
        ("merged", "fp16"),
        ("merged", "q4"),
        ("gguf", "f16"),
        ("gguf", "q8_0"),
        ("gguf", "q5_k_m"),
        ("gguf", "q4_k_m"),
    ),
    "QLoRA": (("adapter", "none"), ("merged", "none"), ("gguf", "q8_0"), ("gguf", "q4_k_m")),
    "Full": (
        ("adapter", "none"),
        ("merged", "none"),
        ("merged", "q4"),
        ("gguf", "f16"),
        ("gguf", "q8_0"),
        ("gguf", "q4_k_m"),
    ),
    "DPO": (("adapter", "none"), ("merged", "none"), ("gguf", "q8_0"), ("gguf", "q4_k_m")),
}
# Exports of every kind of Gemma in GGUF, which llama.cpp has to run, and others of some shapes, trained with LoRA.
IN_GGUF: tuple[tuple[Format, Quantization], ...] = (("gguf", "f16"), ("gguf", "q4_k_m"))
OTHERS: Mapping[str, tuple[tuple[Format, Quantization], ...]] = {
    "gemma": (("gguf", "q8_0"),),
    "gemma4-e-text": (("adapter", "none"), ("gguf", "f16")),
    "gemma4-dense-text": (("merged", "none"), ("gguf", "q8_0")),
    "gemma4-e": (("merged", "fp16"),),
}
# gemma3 is among the methods above, and llama.cpp does not compute the shape of this Gemma 3n.
SHAPES = tuple(shape for shape in (*KINDS.values(), *OTHERS) if shape not in ("gemma3", "gemma3n-text"))
FAMILIES: Mapping[str, tuple[tuple[Format, Quantization], ...]] = {
    shape: (*(IN_GGUF if shape in KINDS.values() else ()), *OTHERS.get(shape, ())) for shape in SHAPES
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verdict of the certificate on an export.

    refusal: the reason, or "".
    """

    name: str
    refusal: str


def run(work: Path, base: Path) -> list[Verdict]:
    """Export everything, and return the verdicts.

    base: a taught model of the shape gemma3.
    """
    jobs = {
        "LoRA": TinyJob(work / "lora", base=base),
        "QLoRA": TinyJob(work / "qlora", base=base, training={"method": "QLoRA"}),
        "Full": TinyJob(work / "full", base=base, training={"method": "Full", "learning_rate": 1e-3}),
        "DPO": TinyJob(work / "dpo", base=base, preferences=True, training=DPO),
    }
    pairs = [(f"{method} of gemma3", jobs[method], exports) for method, exports in EXPORTS.items()]
    pairs += [
        (f"LoRA of {shape}", TinyJob(work / shape, shape, training=SHORT), exports)
        for shape, exports in FAMILIES.items()
    ]
    verdicts = []
    for name, job, exports in pairs:
        for export_format, quantization in exports:
            folder, note = job.write(export_format, quantization)
            refusal = job.refusal(export_format, quantization, folder, note)
            verdicts.append(Verdict(f"{name}, {export_format} {quantization}", refusal))
            print(f"{verdicts[-1].name}: {refusal or 'certified'}", file=sys.stderr, flush=True)
    return verdicts
