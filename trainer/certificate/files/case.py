"""Case: an export and the trained model that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemtune.request.exports import Export, Format, Quantization, export_of


@dataclass(frozen=True, slots=True)
class Case:
    """Folders of a trained model and of its export.

    base: the base model, or the trained model if all weights were trained; then adapter is None. folder: the export's.
    tools: llama.cpp's. was_dithered: tensors were dithered before quantizing.
    """

    base: Path
    adapter: Path | None
    folder: Path
    format: Format
    quantization: Quantization | None
    tools: Path
    was_dithered: bool

    @classmethod
    def read(cls, case: Mapping[str, Any]) -> Case:
        """Return the case that `comparison_process` gets as JSON."""
        return cls(
            Path(case["base"]),
            None if case["adapter"] is None else Path(case["adapter"]),
            Path(case["folder"]),
            case["format"],
            case.get("quantization"),
            Path(case.get("tools") or "."),
            bool(case.get("was_dithered")),
        )

    @property
    def trained(self) -> Path:
        """The folder with the trained weights and tokenizer files."""
        return self.adapter or self.base

    @property
    def export(self) -> Export:
        return export_of(self.format, self.quantization)
