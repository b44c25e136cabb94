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
    """Limits of what an export may lose.

    Beyond any of them it does not behave as trained.
    kl: largest mean KL divergence from the trained model, in nats per position.
    top1: smallest share of positions at which both models predict the same token first.
    perplexity: largest perplexity, as a multiple of that of the trained model.
    reason: reason for these limits, for the certificate.
    change: smallest share of the change by training that the export has to show; 1 is all of it, 0 a lost adapter.
    """

    kl: float
    top1: float
    perplexity: float
    reason: str
    change: float = 0.5


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


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedExport(ExportBase):
    """Merged model in the format of transformers.

    dtype: number format of the weights that are not quantized, as config.json names it.
    """

    quantization: MergedQuantization
    dtype: Literal["bfloat16", "float16"]


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
    def file_name(self) -> str:
        """Return the name of the file."""
        return f"model-{self.quantization}.gguf"


Export = AdapterExport | MergedExport | GgufExport


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """Format with its exports, of which the first one is the default.

    library, relation: the Hub's words for the library that loads it, and for its relation to the base model.
    bytes_per_parameter: size of all files that an export writes, temporary ones included, per parameter of the base
    model.
    """

    library: str
    relation: str
    bytes_per_parameter: float
    exports: tuple[Export, ...]


# The limits leave room above what was measured on Gemma 3 270M (bench/RESULTS.md), the smallest model, which loses
# most. A wrong norm, a lost adapter or a wrong template exceeds all of them by far, except those of q2_k.
ADAPTER = (
    AdapterExport(
        quantization="none",
        stored="as it was trained",
        limits=Limits(0.001, 0.99, 1.01, "these are the same weights in the same library, so nothing may differ", 0.99),
    ),
)
MERGED = (
    MergedExport(
        quantization="none",
        stored="bf16",
        limits=Limits(0.02, 0.95, 1.05, "the sum of base and adapter is rounded once to the 8 binary digits of bf16"),
        dtype="bfloat16",
    ),
    MergedExport(
        quantization="fp16",
        stored="fp16",
        limits=Limits(0.02, 0.95, 1.05, "fp16 is more precise than bf16, so it may lose no more"),
        dtype="float16",
    ),
    MergedExport(
        quantization="q4",
        stored="4 bit, NF4 of bitsandbytes",
        limits=Limits(1.5, 0.5, 4.0, "NF4 has 16 values per weight; embeddings are not quantized"),
        dtype="bfloat16",
    ),
)
GGUF = (
    GgufExport(
        quantization="q8_0",
        stored="8 bits per weight",
        limits=Limits(0.1, 0.9, 1.15, "there are 8 bits per weight; what has only begun to be learned is easily lost"),
        llama_type="Q8_0",
    ),
    GgufExport(
        quantization="f16",
        stored="fp16",
        limits=Limits(0.02, 0.95, 1.05, "merged as above; another runtime adds in a different order"),
        llama_type="F16",
        converted=True,
    ),
    GgufExport(
        quantization="q4_k_m",
        stored="4 bits per weight",
        limits=Limits(
            1.0, 0.7, 2.5, "there are 4 bits per weight; 0.04 to 0.13 nats were measured, and some answers are harder"
        ),
        llama_type="Q4_K_M",
    ),
    GgufExport(
        quantization="q5_k_m",
        stored="5 bits per weight",
        limits=Limits(
            0.3, 0.8, 1.4, "there are 5 bits per weight, and the rows of small models do not fit its blocks well"
        ),
        llama_type="Q5_K_M",
    ),
    GgufExport(
        quantization="q2_k",
        stored="2 to 3 bits per weight",
        limits=Limits(
            8.0,
            0.1,
            2000.0,
            "2 to 3 bits per weight are too few for 270M: only a broken file exceeds these limits",
            0.1,
        ),
        llama_type="Q2_K",
    ),
)
EXPORTS: Mapping[Format, ExportFormat] = {
    "adapter": ExportFormat("peft", "adapter", 0.0, ADAPTER),
    "merged": ExportFormat("transformers", "finetune", 2.0, MERGED),
    # The merged model, the same model as GGUF in bf16, and the file itself.
    "gguf": ExportFormat("gguf", "quantized", 2.0 + 2.0 + 1.1, GGUF),
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
