"""Text jobs on a vision base model: only its language model is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gemtune.jobs.status import Step
from tests import rows
from tests.trainer.conftest import Bench
from tests.trainer.training.test_metrics import reference_metrics
from trainer.rows.encoded import Encoded
from trainer.rows.prepared import read_tokens

VISION_PARTS = ("vision_tower.", "multi_modal_projector.")


@pytest.fixture
def text_bench_of(vision_bench_of: Callable[..., Bench]) -> Callable[..., Bench]:
    def make(**training: Any) -> Bench:
        bench = vision_bench_of(**{"max_steps": 8, "save_steps": 100} | training)
        bench.fields["modality"] = "text"
        bench.put("train", rows.train_rows(24))
        bench.put("eval", rows.held_out_rows(8))
        return bench

    return make


def held_out(bench: Bench) -> list[Encoded]:
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    return [
        Encoded(row["input_ids"], row["labels"], len(row["input_ids"])) for row in read_tokens(folder / "eval.parquet")
    ]


@pytest.mark.parametrize("packing", [False, True])
def test_the_adapter_is_for_the_language_model_and_loads_on_the_same_base(
    text_bench_of: Callable[..., Bench], packing: bool
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    bench = text_bench_of(packing=packing, max_seq_length=128).to(Step.EXPORT)
    base = AutoModelForCausalLM.from_pretrained(bench.base)
    model = PeftModel.from_pretrained(base, bench.job.adapter_path).eval()
    loss, accuracy, _ = reference_metrics(model, held_out(bench))
    assert bench.job.metrics is not None
    assert bench.job.metrics.baseline is not None
    assert bench.job.metrics.eval_loss == pytest.approx(loss, rel=1e-4)
    assert bench.job.metrics.accuracy == pytest.approx(accuracy, abs=1e-9)
    assert loss < bench.job.metrics.baseline.eval_loss - 0.05
    adapted = load_file(Path(bench.job.adapter_path or "") / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in adapted)


def test_full_fine_tuning_keeps_weight_names_and_the_vision_parts(text_bench_of: Callable[..., Bench]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    bench = text_bench_of(method="Full", learning_rate=1e-3, weight_decay=0.1).to(Step.TRAIN)
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/model/1"))
    before, after = load_file(bench.base / "model.safetensors"), load_file(folder / "model.safetensors")
    assert set(after) == set(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if not name.startswith(VISION_PARTS)}
    assert AutoConfig.from_pretrained(folder).architectures == ["Gemma3ForConditionalGeneration"]
    assert (folder / "processor_config.json").is_file()
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert bench.job.metrics is not None
    assert bench.job.metrics.eval_loss == pytest.approx(reference_metrics(model, held_out(bench))[0], rel=1e-4)
