"""Honest exports: whether the certificate refuses none of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.certificate.jobs import TinyJob
from gemtune.request.exports import Format, Quantization

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
# Shapes of other families, which are trained with LoRA, and their exports.
FAMILIES: Mapping[str, tuple[tuple[Format, Quantization], ...]] = {
    "gemma": (("gguf", "q8_0"),),
    "gemma2": (("gguf", "q4_k_m"),),
    "gemma3-vision": (("gguf", "f16"),),
    "gemma4-e-text": (("adapter", "none"), ("gguf", "f16")),
    "gemma4-dense-text": (("merged", "none"), ("gguf", "q8_0")),
    "gemma4-moe": (("gguf", "f16"),),
    "gemma4-e": (("merged", "fp16"), ("gguf", "f16")),
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
