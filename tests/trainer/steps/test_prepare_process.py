"""Prepare in a process of its own, and its results for the steps after it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemtune.jobs.status import Step
from tests.trainer.conftest import Bench
from trainer.rows.prepared import histogram

ALONE = """
import sys
from pathlib import Path
sys.modules["torch"] = None  # importing it is an error from here on
from gemtune.jobs.status import Step
from tests.trainer.conftest import Bench
bench = Bench(Path(sys.argv[1]), Path(sys.argv[2]), eval_strategy="epoch")
bench.services.buckets.data.delete("processed_datasets/chats/eval.jsonl")
bench.run(Step.PREPARE)
assert bench.job.steps[Step.PREPARE].state == "done"
assert sys.modules.pop("torch") is None
loaded = {name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "trl", "peft", "datasets"}
assert not loaded, loaded
print(bench.job_id)
"""


def test_the_whole_step_runs_without_torch(tmp_path: Path, tiny: Path) -> None:
    arguments = [sys.executable, "-c", ALONE, str(tmp_path / "home"), str(tiny)]
    process = subprocess.run(arguments, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert process.returncode == 0, process.stderr
    (summary,) = (tmp_path / "home").rglob("prepared/1/prepared.json")
    assert json.loads(summary.read_text())["rows"] == 22
    assert {path.name for path in summary.parent.iterdir()} == {
        "train.parquet",
        "eval.parquet",
        "prepared.json",
        "report.json",
        "rows_left_out.jsonl",
        "manifest.json",
    }
    schema = pq.read_schema(summary.parent / "train.parquet")
    assert [(field.name, str(field.type.value_type)) for field in schema] == [
        ("input_ids", "int32"),
        ("labels", "int32"),
    ]


def test_rows_with_a_token_without_embedding_are_refused(bench: Bench, tmp_path: Path) -> None:
    """Gemma 3 text models have no embedding for their picture tokens."""
    config = json.loads((bench.base / "config.json").read_text())
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    for path in bench.base.iterdir():
        (narrow / path.name).symlink_to(path)
    (narrow / "config.json").unlink()
    (narrow / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 1}))
    tokenizer = json.loads((bench.base / "tokenizer.json").read_text())
    picture = {
        "id": config["vocab_size"] + 1,
        "content": "<image_soft_token>",
        "special": False,  # a special token would be refused as a control token
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
    }
    unused = picture | {"id": config["vocab_size"], "content": "<unused>"}
    tokenizer["added_tokens"] += [unused, picture]
    (narrow / "tokenizer.json").unlink()
    (narrow / "tokenizer.json").write_text(json.dumps(tokenizer))
    good = [{"prompt": "<unused>", "completion": "Captain"}] * 20
    bench.put("train", [*good, {"prompt": "<image_soft_token>", "completion": "Captain"}])
    bench.training["base_model_id"] = str(narrow)
    bench.run(Step.PREPARE)
    (entry,) = bench.read("prepared/1/report.json")["train"]["refused_rows"]
    assert entry["row"] == 21
    assert entry["reason"] == "its text contains '<image_soft_token>', for which the base model has no embedding"


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=60))
def test_the_histogram_counts_every_row_once(lengths: list[int]) -> None:
    result = histogram(Counter(lengths))
    ordered = sorted(lengths)
    assert (result["least"], result["most"]) == (ordered[0], ordered[-1])
    assert result["median"] == ordered[(len(ordered) - 1) // 2]
    assert sum(result["rows_up_to"].values()) == len(lengths)
    for bound, rows in result["rows_up_to"].items():
        assert rows == sum(int(bound) // 2 < length <= int(bound) for length in lengths)


@pytest.mark.parametrize("count", [2, 3, 11])
def test_holding_out_leaves_rows_to_train_on_and_to_evaluate(tmp_path: Path, tiny: Path, count: int) -> None:
    bench = Bench(tmp_path / "home", tiny, eval_strategy="epoch")
    bench.services.buckets.data.delete("processed_datasets/chats/eval.jsonl")
    bench.put("train", [{"prompt": f"Number {number}", "completion": "Captain"} for number in range(count)])
    bench.run(Step.PREPARE)
    summary = bench.read("prepared/1/prepared.json")
    assert summary["eval_rows"] == 1
    assert summary["rows"] == count - 1
