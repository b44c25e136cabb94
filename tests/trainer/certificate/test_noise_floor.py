"""The measurement of the noise floor."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from gemtune.request.spec import Spec
from trainer.certificate import parity_check
from trainer.certificate.held_out_rows import ComparisonRows
from trainer.export.trained_weights import TrainedWeights
from trainer.process import child
from trainer.process.child import ChildResult


def certificate_in(work: Path) -> parity_check.Certificate:
    """Return a certificate whose base model was downloaded to the work folder."""
    (work / "base").mkdir()
    spec = Spec.model_validate({"processed_dataset_id": "x", "training_config": {"base_model_id": "a/b"}})
    trained = TrainedWeights(work / "base", work, work, reference=work)
    return parity_check.Certificate(spec, trained, lambda: ComparisonRows("", [], []), work, work, work, lambda: None)


def test_a_base_model_that_crashes_the_comparison_gives_no_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "run", lambda arguments, check_stop: ChildResult(-signal.SIGSEGV, ""))
    with pytest.raises(RuntimeError, match="as exported could not be measured"):
        parity_check._measure_floor(certificate_in(tmp_path), lambda: tmp_path / "base.gguf")


def test_the_rounded_base_model_is_removed_and_the_one_that_was_trained_on_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity_check, "_run", lambda certificate, more: {"rows": {}, "probes": {}})
    certificate, rounded = certificate_in(tmp_path), tmp_path / "rounded"
    rounded.mkdir()
    for place in (rounded, certificate.trained.base):
        parity_check._measure_floor(certificate, lambda place=place: place)  # type: ignore[misc]
    assert (rounded.exists(), certificate.trained.base.exists()) == (False, True)


def test_rows_are_not_collected_if_training_recorded_what_the_model_said(tmp_path: Path) -> None:
    calls: list[int] = []

    def rows() -> ComparisonRows:
        calls.append(1)
        return ComparisonRows("held-out rows", [], [])

    recorded = replace(certificate_in(tmp_path), rows=rows, compare=dict)
    assert (parity_check._run(recorded, {})["rows"], calls) == (None, [])
    computed = replace(recorded, trained=replace(recorded.trained, reference=None))
    assert (parity_check._run(computed, {})["rows"]["source"], calls) == ("held-out rows", [1])
