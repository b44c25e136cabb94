"""Comparison of an export with the trained model in edge cases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemtune.request.exports import MergedQuantization
from tests import tiny_gemma
from tests.trainer import untrained_results
from tests.trainer.gguf.test_gguf import sharpen_logits
from trainer.certificate import comparison
from trainer.certificate.files import check
from trainer.certificate.runtimes import Transformers
from trainer.export.merge import merge

PROMPT = [2, 40, 41, 42]


def test_answers_that_are_compared_have_no_tokens_of_pictures_or_sounds(tmp_path: Path) -> None:
    """Runtimes embed such tokens differently."""
    base = tiny_gemma.build(tmp_path / "base", "gemma4-e")
    config = json.loads((base / "config.json").read_text())
    media = [config[f"{medium}_token_id"] for medium in ("image", "audio", "video")]
    weights = load_file(base / "model.safetensors")
    (name,) = [name for name in weights if name.endswith(".embed_tokens.weight")]
    likely = next(weights[name][token].clone() for token in Transformers(base).answer_and_end(PROMPT, 1))
    for token in media:
        weights[name][token] = 2 * likely
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert not set(media) & set(Transformers(base).answer_and_end(PROMPT, 8))


@pytest.mark.parametrize("quantization", ["none", "q4"])
def test_a_lost_adapter_shows_as_a_share_of_change_near_zero(
    tmp_path: Path, tiny: Path, quantization: MergedQuantization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A correct merge keeps all of the change, up to rounding.

    The share is compared with a reference computation.
    """
    base = sharpen_logits(Path(shutil.copytree(tiny, tmp_path / "base")))
    adapter = untrained_results.write_adapter(base, tmp_path / "adapter", std=0.05)
    merge(base, adapter, tmp_path / "correct", quantization)
    merge(base, None, tmp_path / "lost", quantization)
    row = {"input_ids": PROMPT + list(range(50, 80)), "labels": [-100] * 4 + list(range(50, 80))}
    rows = {"source": "here", "rows": [row], "prompts": []}
    monkeypatch.setattr(check, "problems", lambda case, model: [])  # which would notice before anything is measured
    case = {"base": str(base), "adapter": str(adapter), "format": "merged", "quantization": quantization, "rows": rows}
    correct, lost = (
        comparison.compare(case | {"folder": str(tmp_path / name)})["rows"]["change_kept"]
        for name in ("correct", "lost")
    )
    assert correct == pytest.approx(1.0, abs=0.02 if quantization == "none" else 0.3)
    assert abs(lost) < 0.2
    if quantization == "none":
        assert correct == pytest.approx(share_of_change(base, adapter, tmp_path / "correct", row), abs=1e-4)


def share_of_change(base: Path, adapter: Path, exported: Path, row: dict[str, list[int]]) -> float:
    """Return the regression coefficient, position by position in float64."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def logs(model: Any) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = model.eval()(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        return logits.double().log_softmax(-1)

    untrained = logs(AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager"))
    plain = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    trained = logs(PeftModel.from_pretrained(plain, str(adapter)))
    actual = logs(AutoModelForCausalLM.from_pretrained(exported, attn_implementation="eager", dtype=torch.float32))
    covariance = variance = 0.0
    for position, target in enumerate(row["labels"][1:]):
        if target != -100:
            probabilities = trained[position].exp()
            trained_change, exported_change = (
                trained[position] - untrained[position],
                actual[position] - untrained[position],
            )
            trained_change, exported_change = (
                difference - (probabilities * difference).sum() for difference in (trained_change, exported_change)
            )
            covariance += float((probabilities * trained_change * exported_change).sum())
            variance += float((probabilities * trained_change * trained_change).sum())
    return covariance / variance
