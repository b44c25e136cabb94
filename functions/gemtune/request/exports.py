"""The ways to export: one record per format and quantization, which service and trainer read."""

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
    """What an export may lose; beyond any of these it does not behave as trained.

    kl: mean over positions, in nats. top1: share of positions whose first choice is the same. perplexity: how many
    times that of the trained model. reason: why just these, for the certificate. change: the share of what training
    changed that the export must show, 1 where it is all there and 0 where the adapter is lost.
    """

    kl: float
    top1: float
    perplexity: float
    reason: str
    change: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportBase:
    """One way to store what was trained. stored: the numbers that its weights are stored in, for the model card."""

    quantization: Quantization
    stored: str
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterExport(ExportBase):
    """PEFT's folder, as it was trained; after a training of all weights the whole model."""

    quantization: Literal["none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedExport(ExportBase):
    """A folder of transformers. dtype: what config.json says of the weights that are not quantized."""

    quantization: MergedQuantization
    dtype: Literal["bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufExport(ExportBase):
    """A file for llama.cpp.

    llama_type: llama.cpp's name of the type that most of its weights have. converted: whether the converter writes this
    type by itself; other files are quantized from one in bf16.
    """

    quantization: GgufQuantization
    llama_type: str
    converted: bool = False

    @property
    def file_name(self) -> str:
        return f"model-{self.quantization}.gguf"


Export = AdapterExport | MergedExport | GgufExport


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """A format and its exports, the default first.

    library, relation: the Hub's words for the library that loads it and its relation to the base model.
    bytes_per_parameter: of the files that an export of it writes, those that it deletes again included.
    """

    library: str
    relation: str
    bytes_per_parameter: float
    exports: tuple[Export, ...]


# Limits are measured on Gemma 3 270M (bench/RESULTS.md), the smallest model there is, which loses most, with room
# above. A wrong norm, a lost adapter or a wrong template is far beyond every limit but the last.
ADAPTER = (
    AdapterExport(
        quantization="none",
        stored="as it was trained",
        limits=Limits(0.001, 0.99, 1.01, "the same weights in the same library: nothing may differ", 0.99),
    ),
)
MERGED = (
    MergedExport(
        quantization="none",
        stored="bf16",
        limits=Limits(0.02, 0.95, 1.05, "the sum of base and adapter is rounded to bf16's 8 digits, once"),
        dtype="bfloat16",
    ),
    MergedExport(
        quantization="fp16",
        stored="fp16",
        limits=Limits(0.02, 0.95, 1.05, "fp16 has more digits than bf16; nothing more may be lost"),
        dtype="float16",
    ),
    MergedExport(
        quantization="q4",
        stored="4 bit, NF4 of bitsandbytes",
        limits=Limits(1.5, 0.5, 4.0, "NF4 has 16 values a weight; embeddings stay as they are"),
        dtype="bfloat16",
    ),
)
GGUF = (
    GgufExport(
        quantization="q8_0",
        stored="8 bits per weight",
        limits=Limits(0.1, 0.9, 1.15, "8 bits a weight; what has just begun to be learned is easily lost"),
        llama_type="Q8_0",
    ),
    GgufExport(
        quantization="f16",
        stored="fp16",
        limits=Limits(0.02, 0.95, 1.05, "merged as above; another runtime adds in another order"),
        llama_type="F16",
        converted=True,
    ),
    GgufExport(
        quantization="q4_k_m",
        stored="4 bits per weight",
        limits=Limits(1.0, 0.7, 2.5, "4 bits a weight; 0.04 to 0.13 nats were seen, some answers are harder"),
        llama_type="Q4_K_M",
    ),
    GgufExport(
        quantization="q5_k_m",
        stored="5 bits per weight",
        limits=Limits(0.3, 0.8, 1.4, "5 bits a weight, and the rows of small models fit its blocks badly"),
        llama_type="Q5_K_M",
    ),
    GgufExport(
        quantization="q2_k",
        stored="2 to 3 bits per weight",
        limits=Limits(8.0, 0.1, 2000.0, "2 to 3 bits a weight, too few for 270M: only a broken file is beyond", 0.1),
        llama_type="Q2_K",
    ),
)
EXPORTS: Mapping[Format, ExportFormat] = {
    "adapter": ExportFormat("peft", "adapter", 0.0, ADAPTER),
    "merged": ExportFormat("transformers", "finetune", 2.0, MERGED),
    # The merged model, the same as GGUF in bf16, and the file itself.
    "gguf": ExportFormat("gguf", "quantized", 2.0 + 2.0 + 1.1, GGUF),
}


def quantizations(format: Format) -> tuple[Quantization, ...]:
    """The quantizations of a format, its default first."""
    return tuple(export.quantization for export in EXPORTS[format].exports)


def export_of(format: Format, quantization: Quantization | None) -> Export:
    """The record of a format and a quantization, None for the format's default.

    Raises KeyError for a quantization that the format does not have.
    """
    exports = EXPORTS[format].exports
    if quantization is None:
        return exports[0]
    return {export.quantization: export for export in exports}[quantization]


def merged_export(quantization: MergedQuantization) -> MergedExport:
    """The record of a merged export."""
    return next(export for export in MERGED if export.quantization == quantization)
