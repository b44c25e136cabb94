"""The comparison of an export, where rows bring no answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from trainer.certificate import comparison
from trainer.certificate.runtimes import Transformers

PROMPT = [2, 40, 41, 42]


def test_a_model_that_answers_with_nothing_but_its_end_is_compared_all_the_same(tmp_path: Path, tiny: Path) -> None:
    """As RL with a reward for short completions can teach it."""
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    said = Transformers(base).answer(PROMPT, 1)
    config = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": said}))
    prompt = {"messages": [{"role": "user", "content": "hello"}], "tokens": PROMPT}
    seen = comparison.compare({
        "base": str(base), "adapter": None, "format": "merged", "folder": str(base),
        "rows": [{"input_ids": PROMPT, "labels": []}], "prompts": [prompt],
    })  # fmt: skip
    assert (seen["positions"], seen["top1_agreement"]) == (1, 1.0)
    assert seen["answers"][0]["trained"] == ""
