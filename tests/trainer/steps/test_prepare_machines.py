"""Prepare chooses the machine from the weights and rows, before any GPU runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemtune.errors import StepError
from gemtune.jobs.status import Step
from gemtune.machines import choice
from gemtune.machines.choice import Machine
from gemtune.machines.memory import GPU_FIXED_GIB
from tests import rows
from tests.trainer.conftest import Bench
from trainer.steps import prepare

# Machines with room for 4 rows of 100 tokens, and of 1000 tokens.
SMALL = Machine(cpus=8, memory_gib=32, gpu="small", gpu_gib=GPU_FIXED_GIB + 0.015)
LARGE = Machine(cpus=8, memory_gib=32, gpu="large", gpu_gib=GPU_FIXED_GIB + 0.5)


@pytest.fixture
def bucket_bench(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a job whose base model is in a bucket.

    There are a small and a large machine to choose from.
    """
    monkeypatch.setattr(choice, "MACHINES", {"small": SMALL, "large": LARGE})
    bench = Bench(tmp_path / "home", tiny, base_model_id="gs://data/models/tiny")
    shutil.copytree(tiny, tmp_path / "home" / "data" / "models" / "tiny")
    return bench


def run(bench: Bench) -> None:
    context = replace(bench.context(Step.PREPARE), machines=("small", "large"))
    prepare.run(context)


def test_short_rows_get_the_small_machine(bucket_bench: Bench) -> None:
    run(bucket_bench)
    assert bucket_bench.job.machine == "small"
    assert bucket_bench.read("prepared/1/prepared.json")["machine"] == "small"


def test_one_long_row_gets_the_large_machine(bucket_bench: Bench) -> None:
    long = rows.train_rows(1)[0]
    messages = [message | {"content": message["content"] * 40} for message in long["messages"]]
    bucket_bench.put("eval", [{"messages": messages}])
    bucket_bench.training["too_long"] = "cut"
    run(bucket_bench)
    assert bucket_bench.job.machine == "large"


def test_a_model_that_fits_on_no_machine_fails_in_prepare(bucket_bench: Bench) -> None:
    bucket_bench.training["machine"] = None
    config = bucket_bench.services.settings.home / "data" / "models" / "tiny" / "config.json"
    huge: dict[str, Any] = {"num_hidden_layers": 1000, "hidden_size": 2**16, "intermediate_size": 2**22}
    huge["layer_types"] = ["full_attention"] * 1000
    config.write_text(json.dumps(json.loads(config.read_text()) | huge))
    with pytest.raises(StepError, match="GPU memory") as caught:
        run(bucket_bench)
    assert caught.value.code == "needs_larger_machine"
