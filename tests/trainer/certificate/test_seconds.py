"""The seconds of a certificate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gemtune.request.exports import export_of
from tests.trainer.certificate.test_noise_floor import certificate_in
from tests.trainer.certificate.test_verdict import result
from trainer.steps import export, export_files


@pytest.mark.parametrize(
    ("quantization", "is_function_checked", "seconds"),
    [("q8_0", False, 12.0), ("q8_0", True, 5.0), ("f16", True, 12.0)],
)
def test_they_include_the_comparison_in_16_bits_unless_the_same_file_passed_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quantization: str,
    is_function_checked: bool,
    seconds: float,
) -> None:
    now = 0.0

    def compare(case: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal now
        now += 7 if "exact" in case else 5
        if "exact" in case:
            return {"deviation": 0.0, "noise": None}
        facts = {"source": "x", "runtime": "x", "origin": "x", "answers": [], "prompts": 0, "memory_bytes": 0}
        counts = {f"{name}_compared": 1 for name in ("rows", "probes", "media")} | {"media_rows": 1}
        return result(mean_kl=0.0) | facts | counts | {"prompts_that_differ": [], "prompts_untrimmed": []}

    def write(*_: Any, check_exact: Callable[[Path], None], **__: Any) -> str:
        check_exact(tmp_path / "exact.gguf")
        return ""

    certificate = replace(certificate_in(tmp_path), compare=compare)
    accepting = certificate.spec.export_config.model_copy(update={"accept_loss": True})
    certificate = replace(certificate, spec=certificate.spec.model_copy(update={"export_config": accepting}))
    (certificate.trained.base / "config.json").write_text('{"model_type": "gemma3_text"}')
    monkeypatch.setattr(export, "certificate_of", lambda *_: certificate)
    monkeypatch.setattr(export_files, "write", write)
    context: Any = SimpleNamespace(
        enter=lambda phase: None,
        clock=SimpleNamespace(monotonic=lambda: now),
        spec=SimpleNamespace(export=export_of("gguf", quantization)),  # type: ignore[arg-type]
    )
    parity = export._write_certified(
        context, certificate.trained, tmp_path, lambda path: None, is_function_checked=is_function_checked
    )
    assert parity.seconds == seconds
