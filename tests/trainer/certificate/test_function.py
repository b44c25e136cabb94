"""The check that llama.cpp computes the function that was trained."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.errors import StepError
from gemtune.request.exports import GgufExport, export_of
from gemtune.request.spec import Spec
from tests import tiny_gemma
from tests.trainer import untrained_results
from trainer.certificate import comparison, held_out_rows, parity_check
from trainer.certificate.sums import deviations
from trainer.export.merge import merge
from trainer.export.trained_weights import TrainedWeights
from trainer.gguf import conversion


def write_checked(
    work: Path, tools: Path, shape: str, quantization: Any, *, head_dim: int = 256, method: str = "LoRA", **changed: Any
) -> None:
    """Write a tiny model as GGUF, with the check; changed: of its config.

    There is no record of what the trained model said, although its folder is named for QLoRA.
    """
    base = tiny_gemma.build(work / "base", shape, head_dim=head_dim)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | changed))
    adapter = untrained_results.write_adapter(base, work / "adapter", std=0.05)
    recorded = work / "of a model in 4 bits" if method == "QLoRA" else None
    trained, export = TrainedWeights(base, adapter, work, recorded), export_of("gguf", quantization)
    assert isinstance(export, GgufExport)
    fields = {"processed_dataset_id": "x", "training_config": {"base_model_id": "a/b", "method": method}}
    spec = Spec.model_validate(fields | {"export_config": {"format": "gguf", "quantization": quantization}})
    rows, folder = held_out_rows.collect(work, adapter), work / "exported"
    certificate = parity_check.Certificate(
        spec, trained, lambda: rows, folder, work, tools, lambda: None, compare=comparison.measure
    )
    merge(base, adapter, work / "merged", "none")
    folder.mkdir()
    check = partial(parity_check.check_function, certificate)
    conversion.write(work / "merged", folder, export, tools, check_exact=check)


@pytest.mark.parametrize(
    ("shape", "quantization", "changed"),
    [
        ("gemma2", "q4_k_m", {"hidden_activation": "silu"}),
        ("gemma3", "q2_k", {"hidden_activation": "silu"}),
        ("gemma3", "f16", {"query_pre_attn_scalar": 64}),
        ("gemma4-e-text", "q8_0", {"hidden_activation": "relu"}),
        ("gemma3", "q8_0", {"method": "QLoRA", "hidden_activation": "silu"}),
    ],
)
def test_another_function_is_noticed_in_every_quantization(
    tmp_path: Path,
    tools: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
    quantization: str,
    changed: dict[str, Any],
) -> None:
    """Notice it by the logits alone, without the check of config.json."""
    monkeypatch.setattr(conversion, "check_family", lambda config: None)
    with pytest.raises(StepError, match="computes it otherwise than transformers") as error:
        write_checked(tmp_path, tools, shape, quantization, **changed)
    assert error.value.code == "export_differs"


@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
def test_heads_that_llama_cpp_cannot_keep_in_8_bits_are_compared_too(
    tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch, activation: str
) -> None:
    monkeypatch.setattr(conversion, "check_family", lambda config: None)
    context = pytest.raises(StepError, match=r"at most 0\.002$") if activation == "silu" else nullcontext()
    with context:
        write_checked(tmp_path, tools, "gemma3", "f16", head_dim=48, hidden_activation=activation)


@pytest.mark.parametrize(
    ("shape", "method", "head_dim"),
    [("gemma4-e-text", "QLoRA", 256), ("gemma4-moe-text", "LoRA", 256), ("gemma4-moe-text", "LoRA", 24)],
)
def test_the_same_function_passes(tmp_path: Path, tools: Path, shape: str, method: str, head_dim: int) -> None:
    """Rounding moves the logits of a mixture far, whatever its heads."""
    write_checked(tmp_path, tools, shape, "q4_k_m", method=method, head_dim=head_dim)
    assert (tmp_path / "exported" / "model-q4_k_m.gguf").is_file()


def test_suppressed_tokens_do_not_count() -> None:
    first = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    second = torch.tensor([[1.0, 2.0, -torch.inf, 4.0, 9.0]])
    assert deviations(first, second, [2, 77]).tolist() == [0.0]
    assert not torch.isfinite(deviations(first, second)).any()
