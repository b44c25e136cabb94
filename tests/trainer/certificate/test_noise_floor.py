"""The measurement of the noise floor."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from gemtune.request.spec import Spec
from trainer.certificate import parity_check
from trainer.certificate.held_out_rows import ComparisonRows
from trainer.export.trained_weights import TrainedWeights
from trainer.process import child
from trainer.process.child import ChildResult


def test_a_base_model_that_crashes_the_comparison_gives_no_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "run", lambda arguments, check_stop: ChildResult(-signal.SIGSEGV, ""))
    spec = Spec.model_validate({"processed_dataset_id": "x", "training_config": {"base_model_id": "a/b"}})
    trained = TrainedWeights(tmp_path, tmp_path, tmp_path, reference=tmp_path)
    rows = ComparisonRows("", [], [])
    certificate = parity_check.Certificate(spec, trained, rows, tmp_path, tmp_path, tmp_path, lambda: None)
    with pytest.raises(RuntimeError, match="as exported could not be measured"):
        parity_check._measure_floor(certificate, lambda: tmp_path / "base.gguf")
