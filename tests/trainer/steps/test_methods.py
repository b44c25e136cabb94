"""Each method on a text model: it learns, and its result loads.

Only the weights that the method trains change.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gemtune.jobs.status import Step
from tests import preference_rows, rows, tiny_gemma
from tests.gpu.conftest import convert_to_bf16
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_train import after_steps
from tests.trainer.training.test_metrics import reference_metrics
from trainer.rows.encoded import Encoded
from trainer.rows.prepared import read_tokens


def held_out(bench: Bench) -> list[Encoded]:
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    return [
        Encoded(row["input_ids"], row["labels"], len(row["input_ids"])) for row in read_tokens(folder / "eval.parquet")
    ]


def result_folder(bench: Bench, name: str) -> Path:
    return Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/{name}/1"))


@pytest.mark.parametrize("packing", [False, True])
def test_full_fine_tuning_trains_all_weights_and_saves_a_whole_model(
    bench_of: Callable[..., Bench], packing: bool
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    bench = bench_of(method="Full", learning_rate=2e-3, max_steps=25, packing=packing, max_seq_length=256).to(
        Step.TRAIN
    )
    metrics = bench.job.metrics
    assert metrics is not None
    assert metrics.baseline is not None
    folder = result_folder(bench, "model")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    loss, accuracy, _ = reference_metrics(model, held_out(bench))
    assert metrics.eval_loss == pytest.approx(loss, rel=1e-4)
    assert metrics.accuracy == pytest.approx(accuracy, abs=1e-9)
    assert loss < metrics.baseline.eval_loss - 0.3
    before, after = load_file(bench.base / "model.safetensors"), load_file(folder / "model.safetensors")
    assert set(after) == set(before)
    assert all(not torch.equal(after[name], weight) for name, weight in before.items())
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert bench.job.error is None


def test_qlora_trains_an_adapter_on_4_bit_weights(bench_of: Callable[..., Bench]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    bench = bench_of(method="QLoRA", max_steps=30).to(Step.EXPORT)
    metrics = bench.job.metrics
    assert metrics is not None
    assert metrics.baseline is not None
    assert metrics.eval_loss is not None
    assert metrics.eval_loss < metrics.baseline.eval_loss - 0.3
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    base = AutoModelForCausalLM.from_pretrained(bench.base, quantization_config=four_bits)
    kinds = {type(module).__name__ for name, module in base.named_modules() if name.endswith("_proj")}
    assert kinds == {"Linear4bit"}
    model = PeftModel.from_pretrained(base, result_folder(bench, "adapter")).eval()
    loss, _, _ = reference_metrics(model, held_out(bench))
    assert metrics.eval_loss == pytest.approx(loss, rel=2e-2)
    assert not any(
        "embed" in name or "lm_head" in name
        for name in load_file(result_folder(bench, "adapter") / "adapter_model.safetensors")
    )


def test_full_fine_tuning_resumes_exactly(bench_of: Callable[..., Bench]) -> None:
    from gemtune.clock import SystemClock

    options: dict[str, Any] = {"method": "Full", "learning_rate": 2e-3, "max_steps": 8, "save_steps": 3}
    uninterrupted, interrupted = bench_of(**options).to(Step.TRAIN), bench_of(**options)
    interrupted.run(Step.PREPARE)
    interrupted.run(Step.TRAIN, should_stop=after_steps(5))
    assert interrupted.job.steps[Step.TRAIN].state == "stopped"
    interrupted.run(Step.TRAIN, deadline=SystemClock().monotonic() + 3600)
    first, second = (
        load_file(next(p.parent.glob("*/model.safetensors")))
        for p in (result_folder(uninterrupted, "model"), result_folder(interrupted, "model"))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert uninterrupted.curve() == interrupted.curve()


@pytest.mark.parametrize("rl", [None, {"algorithm": "dpo"}])
def test_an_adapter_on_a_16_bit_gemma_2_learns(
    bench_of: Callable[..., Bench], tmp_path: Path, rl: dict[str, Any] | None
) -> None:
    """The logits are soft-capped.

    Computation is in the dtype that is fastest on this processor.
    """
    base = convert_to_bf16(tiny_gemma.build(tmp_path / "gemma2", "gemma2"))
    method = {"method": "LoRA"} if rl is None else {"method": "RL", "rl_config": rl}
    bench = bench_of(base_model_id=str(base), max_steps=8, **method)
    if rl is not None:
        bench.put("train", preference_rows.pairs(rows.train_rows(24)))
        bench.put("eval", preference_rows.pairs(rows.held_out_rows(8)))
    bench.to(Step.TRAIN)
    losses = [loss for _, loss in bench.curve()]
    assert losses[-1] < losses[0] - 0.3


def test_packing_needs_fewer_train_steps_for_the_same_rows(bench_of: Callable[..., Bench]) -> None:
    plain, packed = (
        bench_of(max_steps=None, epochs=1, packing=packing, max_seq_length=256).to(Step.TRAIN)
        for packing in (False, True)
    )
    steps = [len(bench.curve()) for bench in (plain, packed)]
    assert steps[1] < steps[0]
    prepared = packed.read("prepared/1/prepared.json")
    assert prepared["packs"] < prepared["rows"]
    assert steps[1] == prepared["total_train_steps"]
