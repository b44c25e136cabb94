"""The comparison of an export, where rows bring no answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.request.exports import MergedQuantization
from tests.trainer import untrained_results
from tests.trainer.gguf.test_gguf import sharp
from trainer.certificate import comparison
from trainer.certificate.runtimes import Transformers
from trainer.export.merge import merge

PROMPT = [2, 40, 41, 42]


def test_a_model_that_answers_with_nothing_but_its_end_is_compared_all_the_same(tmp_path: Path, tiny: Path) -> None:
    """As RL with a reward for short completions can teach it."""
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    said = Transformers(base).answer(PROMPT, 1)
    config = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": said}))
    prompt = {"messages": [{"role": "user", "content": "hello"}], "tokens": PROMPT}
    seen = comparison.compare(
        {
            "base": str(base),
            "adapter": None,
            "format": "merged",
            "folder": str(base),
            "rows": [{"input_ids": PROMPT, "labels": []}],
            "prompts": [prompt],
        }
    )
    assert (seen["positions"], seen["top1_agreement"]) == (1, 1.0)
    assert seen["answers"][0]["trained"] == ""


@pytest.mark.parametrize("quantization", ["none", "q4"])
def test_a_lost_adapter_shows_as_a_change_that_is_not_there(
    tmp_path: Path, tiny: Path, quantization: MergedQuantization
) -> None:
    """Beside an honest merge, which shows all of it, rounded as it is. The share is that of an own computation."""
    base = sharp(Path(shutil.copytree(tiny, tmp_path / "base")))
    adapter = untrained_results.write_adapter(base, tmp_path / "adapter", std=0.05)
    merge(base, adapter, tmp_path / "honest", quantization)
    merge(base, None, tmp_path / "lost", quantization)
    rows = [{"input_ids": PROMPT + list(range(50, 80)), "labels": [-100] * 4 + list(range(50, 80))}]
    case = {"base": str(base), "adapter": str(adapter), "format": "merged", "rows": rows, "prompts": []}
    honest, lost = (
        comparison.compare(case | {"folder": str(tmp_path / name)})["change_kept"] for name in ("honest", "lost")
    )
    assert honest == pytest.approx(1.0, abs=0.02 if quantization == "none" else 0.3)
    assert abs(lost) < 0.2
    if quantization == "none":
        assert honest == pytest.approx(share_of_change(base, adapter, tmp_path / "honest", rows[0]), abs=1e-4)


def share_of_change(base: Path, adapter: Path, exported: Path, row: dict[str, list[int]]) -> float:
    """The coefficient of the regression, position by position in float64."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def logs(model: Any) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = model.eval()(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        return logits.double().log_softmax(-1)

    untrained = logs(AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager"))
    plain = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    trained = logs(PeftModel.from_pretrained(plain, str(adapter)))
    found = logs(AutoModelForCausalLM.from_pretrained(exported, attn_implementation="eager", dtype=torch.float32))
    kept = change = 0.0
    for position, target in enumerate(row["labels"][1:]):
        if target != -100:
            chances = trained[position].exp()
            wanted, shown = trained[position] - untrained[position], found[position] - untrained[position]
            wanted, shown = (each - (chances * each).sum() for each in (wanted, shown))
            kept += float((chances * wanted * shown).sum())
            change += float((chances * wanted * wanted).sum())
    return kept / change
