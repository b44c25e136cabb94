"""Formats and quantizations of exports, as a second copy to compare with.

A change that is made in one place only was not intended.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

import pytest

from gemtune.request import exports
from gemtune.request.exports import EXPORTS, AdapterExport, Export, GgufExport, MergedExport, export_of, quantizations

# format: library and relation to the base model as the Hub names them, bytes per parameter
FORMATS = {
    "adapter": ("peft", "adapter", 0.0),
    "merged": ("transformers", "finetune", 0.0),
    "gguf": ("gguf", "quantized", 2.0 + 1.1),
}
# format, quantization: type of its weights; of its limits the largest KL and multiple of the noise floor, and the least
# shares: of equal choices, of those where training changed them, of the gain in loss, of the change by training
QUANTIZATIONS: dict[tuple[str, str], tuple[str | None, float, float, float, float, float, float]] = {
    ("adapter", "none"): (None, 0.001, 3.0, 0.99, 0.98, 0.95, 0.98),
    ("merged", "none"): ("bfloat16", 0.005, 3.0, 0.95, 0.95, 0.95, 0.9),
    ("merged", "fp16"): ("float16", 0.005, 3.0, 0.95, 0.95, 0.95, 0.9),
    ("merged", "q4"): ("bfloat16", 0.2, 4.0, 0.75, 0.85, 0.9, 0.6),
    ("gguf", "q8_0"): ("Q8_0", 0.01, 4.0, 0.93, 0.93, 0.95, 0.85),
    ("gguf", "f16"): ("F16", 0.005, 3.0, 0.95, 0.95, 0.95, 0.9),
    ("gguf", "q4_k_m"): ("Q4_K_M", 0.1, 4.0, 0.75, 0.85, 0.9, 0.6),
    ("gguf", "q5_k_m"): ("Q5_K_M", 0.06, 4.0, 0.8, 0.88, 0.9, 0.7),
    ("gguf", "q2_k"): ("Q2_K", 0.3, 4.0, 0.6, 0.75, 0.8, 0.5),
}


def weight_type(export: Export) -> str | None:
    match export:
        case GgufExport():
            return export.llama_type
        case MergedExport():
            return export.dtype
    return None


def test_formats_match_the_table() -> None:
    assert set(EXPORTS) == set(get_args(exports.Format))
    assert {name: (each.library, each.relation, each.local_bytes) for name, each in EXPORTS.items()} == FORMATS


def test_exports_match_the_table_in_its_order() -> None:
    exports_in_order: list[Any] = [
        ((name, each.quantization), (weight_type(each), *list(asdict(each.limits).values())[:-1]))
        for name, kind in EXPORTS.items()
        for each in kind.exports
    ]
    differing = [
        f"{' '.join(name)}: {values}" for name, values in exports_in_order if QUANTIZATIONS.get(name) != values
    ]
    assert not differing, "state them in QUANTIZATIONS, as they were decided:\n" + "\n".join(differing)
    assert exports_in_order == list(QUANTIZATIONS.items())


@pytest.mark.parametrize(("export_format", "quantization"), QUANTIZATIONS)
def test_an_export_is_found_by_format_and_quantization(export_format: Any, quantization: Any) -> None:
    export = export_of(export_format, quantization)
    assert export.quantization == quantization
    assert isinstance(export, {"adapter": AdapterExport, "merged": MergedExport, "gguf": GgufExport}[export_format])
    assert not isinstance(export, GgufExport) or export.file_name == f"model-{quantization}.gguf"
    assert quantization in quantizations(export_format)


@pytest.mark.parametrize("quantization", get_args(exports.MergedQuantization))
def test_a_merged_export_is_found_by_quantization(quantization: Any) -> None:
    assert exports.merged_export(quantization) is export_of("merged", quantization)


def test_only_f16_is_written_by_the_converter_itself() -> None:
    gguf = [export for export in EXPORTS["gguf"].exports if isinstance(export, GgufExport)]
    assert [export.quantization for export in gguf if export.converted] == ["f16"]


@pytest.mark.parametrize("export_format", FORMATS)
def test_the_default_of_a_format_is_its_first(export_format: Any) -> None:
    assert export_of(export_format, None) is EXPORTS[export_format].exports[0]
    with pytest.raises(KeyError):
        export_of(export_format, "q3")  # type: ignore[arg-type]


def test_fewer_bits_may_lose_more() -> None:
    gguf = {each.quantization: each.limits for each in EXPORTS["gguf"].exports}
    ordered = [gguf[name] for name in ("f16", "q8_0", "q5_k_m", "q4_k_m", "q2_k")]
    assert [each.kl for each in ordered] == sorted(each.kl for each in ordered)
    for shares in zip(*((each.top1, each.learned, each.gain, each.change) for each in ordered), strict=True):
        assert list(shares) == sorted(shares, reverse=True)


def test_the_file_of_a_quantization_is_named_after_it() -> None:
    names = {export.quantization: (export.file_name, export.lossy_file_name) for export in exports.GGUF}
    assert names == {name: (f"model-{name}.gguf", f"model-{name}-lossy.gguf") for name in exports.quantizations("gguf")}
