"""Export formats, for service and trainer.

There is one record per format and quantization.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Format = Literal["adapter", "merged", "gguf"]
Quantization = Literal["none", "fp16", "q4", "f16", "q8_0", "q4_k_m", "q5_k_m", "q2_k"]
MergedQuantization = Literal["none", "fp16", "q4"]
GgufQuantization = Literal["q8_0", "f16", "q4_k_m", "q5_k_m", "q2_k"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of what an export may lose by rounding.

    kl: mean KL divergence from the trained model, in nats per position, that is allowed in any case.
    noise: multiple of the noise floor that is allowed beyond that. The floor is the mean KL divergence that the same
    rounding causes in the base model on the same rows.
    top1: smallest share of positions at which both models predict the same token first, or one almost as likely.
    learned: the same, of the positions at which training changed the first choice.
    gain: smallest share of what training gained in held-out loss that the export keeps.
    change: smallest share of the change by training that the export has to show; 1 is all of it, 0 a lost adapter.
    reason: reason for these limits, with the measurement, for the certificate.
    """

    kl: float
    noise: float
    top1: float
    learned: float
    gain: float
    change: float
    reason: str


# No floor allows more than this: beyond it nothing of a task is left.
MAX_KL = 1.0
# Without a floor (all weights were trained), so many times `kl` are allowed.
WITHOUT_FLOOR = 4.0
# Probes are farther from what was trained than held-out rows, so rounding moves them more. Measured on Gemma 3 270M:
# 0.35 nats on other topics where q4_k_m had 0.06 on held-out rows.
PROBE_FACTOR = 3.0
# In a mixture of experts the slightest rounding sends a token between two experts to the other one. Measured on a tiny
# Gemma 4 with 4 experts: 0.02 nats on probes in f16, where models without experts have 0.000001.
EXPERTS_FACTOR = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportBase:
    """One way to store what was trained.

    stored: number format of its weights, in words for the model card.
    """

    quantization: Quantization
    stored: str
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterExport(ExportBase):
    """Adapter in PEFT's format.

    If all weights were trained, it is the whole model.
    """

    quantization: Literal["none"]

    @property
    def rounds(self) -> bool:
        """Return whether weights get fewer than 16 bits."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedExport(ExportBase):
    """Merged model in the format of transformers.

    dtype: number format of the weights that are not quantized, as config.json names it.
    """

    quantization: MergedQuantization
    dtype: Literal["bfloat16", "float16"]

    @property
    def rounds(self) -> bool:
        """Return whether weights get fewer than 16 bits."""
        return self.quantization == "q4"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufExport(ExportBase):
    """GGUF file for llama.cpp.

    llama_type: llama.cpp's name for the type of most weights.
    converted: whether the converter writes this type directly. Others are quantized from a file in bf16.
    """

    quantization: GgufQuantization
    llama_type: str
    converted: bool = False

    @property
    def rounds(self) -> bool:
        """Return whether weights get fewer than 16 bits."""
        return not self.converted

    @property
    def file_name(self) -> str:
        """Return the name of the file."""
        return f"model-{self.quantization}.gguf"

    @property
    def lossy_file_name(self) -> str:
        """Return the name of a file that loses more than the format may."""
        return f"model-{self.quantization}-lossy.gguf"


Export = AdapterExport | MergedExport | GgufExport


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """Format with its exports, of which the first one is the default.

    library, relation: the Hub's words for the library that loads it, and for its relation to the base model.
    local_bytes: size of the files that an export has on the local disk at the same time, temporary ones included, per
    parameter of the base model. The weights of merged models are not among them: they are uploaded shard by shard.
    """

    library: str
    relation: str
    local_bytes: float
    exports: tuple[Export, ...]


# The measurements are of bench/RESULTS.md, on Gemma 3 270M, the smallest model, which loses most.
_EXACT = Limits(
    0.005, 3.0, 0.95, 0.95, 0.95, 0.9, "the sum of base and adapter is rounded once; at most 0.0011 nats were measured"
)
ADAPTER = (
    AdapterExport(
        quantization="none",
        stored="as it was trained",
        limits=Limits(0.001, 3.0, 0.99, 0.98, 0.95, 0.98, "these are the same weights; 0.0000 nats were measured"),
    ),
)
MERGED = (
    MergedExport(quantization="none", stored="bf16", limits=_EXACT, dtype="bfloat16"),
    MergedExport(quantization="fp16", stored="fp16", limits=_EXACT, dtype="float16"),
    MergedExport(
        quantization="q4",
        stored="4 bit, NF4 of bitsandbytes",
        limits=Limits(0.2, 4.0, 0.75, 0.85, 0.9, 0.6, "NF4 has 16 values per weight; 0.11 to 0.15 nats were measured"),
        dtype="bfloat16",
    ),
)
GGUF = (
    GgufExport(
        quantization="q8_0",
        stored="8 bits per weight",
        limits=Limits(0.01, 4.0, 0.93, 0.93, 0.95, 0.85, "8 bits per weight; 0.0013 to 0.0023 nats were measured"),
        llama_type="Q8_0",
    ),
    GgufExport(quantization="f16", stored="fp16", limits=_EXACT, llama_type="F16", converted=True),
    GgufExport(
        quantization="q4_k_m",
        stored="4 bits per weight",
        limits=Limits(0.1, 4.0, 0.75, 0.85, 0.9, 0.6, "4 bits per weight; 0.04 to 0.05 nats were measured"),
        llama_type="Q4_K_M",
    ),
    GgufExport(
        quantization="q5_k_m",
        stored="5 bits per weight",
        limits=Limits(0.06, 4.0, 0.8, 0.88, 0.9, 0.7, "5 bits per weight; 0.03 to 0.04 nats were measured"),
        llama_type="Q5_K_M",
    ),
    GgufExport(
        quantization="q2_k",
        stored="2 to 3 bits per weight",
        limits=Limits(
            0.3, 4.0, 0.6, 0.75, 0.8, 0.5, "2 to 3 bits per weight, too few for 270M, where 5.7 nats were measured"
        ),
        llama_type="Q2_K",
    ),
)
EXPORTS: Mapping[Format, ExportFormat] = {
    "adapter": ExportFormat("peft", "adapter", 0.0, ADAPTER),
    "merged": ExportFormat("transformers", "finetune", 0.0, MERGED),
    # The model as GGUF in bf16, and the file itself.
    "gguf": ExportFormat("gguf", "quantized", 2.0 + 1.1, GGUF),
}


def quantizations(export_format: Format) -> tuple[Quantization, ...]:
    """Return the quantizations of a format, with its default first."""
    return tuple(export.quantization for export in EXPORTS[export_format].exports)


def export_of(export_format: Format, quantization: Quantization | None) -> Export:
    """Return the record of a format and a quantization.

    None stands for the format's default. Raises KeyError for a quantization that the format does not have.
    """
    exports = EXPORTS[export_format].exports
    if quantization is None:
        return exports[0]
    return {export.quantization: export for export in exports}[quantization]


def merged_export(quantization: MergedQuantization) -> MergedExport:
    """Return the record of a merged export."""
    return next(export for export in MERGED if export.quantization == quantization)


def larger_exports(export_format: Format, quantization: Quantization) -> tuple[Quantization, ...]:
    """Return the quantizations of a format that lose less, the smallest first."""
    order = BY_SIZE[export_format]
    return order[order.index(quantization) + 1 :] if quantization in order else ()


# Quantizations of each format that round, and the one that does not, by size.
BY_SIZE: Mapping[Format, tuple[Quantization, ...]] = {
    "adapter": ("none",),
    "merged": ("q4", "none"),
    "gguf": ("q2_k", "q4_k_m", "q5_k_m", "q8_0", "f16"),
}
