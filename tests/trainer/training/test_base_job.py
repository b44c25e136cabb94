"""One adapter through SFT, DPO and GRPO, beside plain TRL and PEFT."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gemtune.errors import StepError
from gemtune.jobs.status import Step
from tests import preference_rows, rows
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_train import adapter, after_steps
from tests.trainer.training.plain_trl import (
    DPO,
    GRPO,
    PAIRS,
    adapter_folder,
    go_on,
    largest_difference,
    logged,
    plain_dpo,
    plain_grpo,
    saved,
)
from tests.trainer.training.test_grpo import logged_entries


def go_on_by_dpo(bench: Bench, **training: Any) -> Bench:
    return go_on(bench, PAIRS, preference_rows.pairs(rows.held_out_rows(4)), **(DPO | training))


def test_dpo_on_a_supervised_adapter_is_plain_trl_on_peft(bench_of: Callable[..., Bench], tmp_path: Path) -> None:
    bench = bench_of(max_steps=6, lora_rank=8, lora_alpha=32).to(Step.TRAIN)
    bench.services.cancel(bench.job_id)
    supervised, parent = adapter_folder(bench), bench.job_id
    go_on_by_dpo(bench).to(Step.EXPORT)
    plain = plain_dpo(bench, supervised, tmp_path / "plain")
    ours = [entry for entry in logged_entries(bench) if "loss" in entry]
    assert [entry["loss"] for entry in ours] == pytest.approx(logged(plain, "loss"), rel=1e-4)
    assert [entry["rewards/margins"] for entry in ours] == pytest.approx(
        logged(plain, "rewards/margins"), rel=1e-3, abs=1e-6
    )
    assert ours[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # the reference is the supervised model
    before, after = load_file(supervised / "adapter_model.safetensors"), adapter(bench)
    assert largest_difference(before, after) > 1e-3
    assert largest_difference(saved(plain, tmp_path / "saved"), after) < 1e-4
    job = bench.job
    assert (job.parent_job_id, job.lineage, job.base_model_id) == (parent, (parent,), str(bench.base))
    assert not (Path(job.adapter_path or "") / "ref").exists()
    assert job.metrics is not None
    assert job.metrics.baseline is not None
    assert job.metrics.baseline.margin == pytest.approx(0, abs=1e-6)
    card = (Path(job.adapter_path or "") / "README.md").read_text()
    assert f"going on from what was trained as job `{parent}`" in card
    assert bench.services.store.get(parent).status == "cancelled"


def test_a_killed_training_from_a_base_job_resumes_to_the_bit(bench_of: Callable[..., Bench]) -> None:
    results = []
    for stops in ((), (1, 1)):
        bench = bench_of(max_steps=2).to(Step.TRAIN)
        bench.services.cancel(bench.job_id)
        go_on_by_dpo(bench, max_steps=4, eval_strategy="steps", eval_steps=2).to(Step.PREPARE)
        for stop in stops:
            bench.run(Step.TRAIN, should_stop=after_steps(stop))
        bench.run(Step.TRAIN)
        results.append((bench.curve(), bench.job.metrics, adapter(bench, attempt=1 + len(stops))))
    assert results[0][:2] == results[1][:2]
    assert largest_difference(results[0][2], results[1][2]) == 0


def test_grpo_on_a_dpo_adapter_diverges_from_that_adapter(
    bench_of: Callable[..., Bench], confident_tiny: Path, tmp_path: Path
) -> None:
    """KL of the first train_step is 0 only if the reference has the adapter."""
    bench = bench_of(base_model_id=str(confident_tiny), max_steps=4).to(Step.TRAIN)
    bench.base = confident_tiny
    bench.services.cancel(bench.job_id)
    root = bench.job_id
    go_on_by_dpo(bench).to(Step.TRAIN)
    bench.services.cancel(bench.job_id)
    middle, start = bench.job_id, adapter_folder(bench)
    bench.export = {"format": "merged"}
    prompts = preference_rows.prompts(rows.train_rows(12)), preference_rows.prompts(rows.held_out_rows(4))
    go_on(bench, *prompts, **GRPO).to(Step.EXPORT)
    plain = plain_grpo(bench, start, tmp_path / "plain")
    ours = [entry for entry in logged_entries(bench) if "loss" in entry]
    assert [entry["reward"] for entry in ours] == pytest.approx(logged(plain, "reward"), rel=1e-4)
    assert [entry["kl"] for entry in ours] == pytest.approx(logged(plain, "kl"), rel=1e-3, abs=1e-5)
    assert ours[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert ours[-1]["kl"] > 1e-4
    assert bench.job.lineage == (middle, root)
    assert largest_difference(saved(plain, tmp_path / "saved"), adapter(bench)) < 3e-3
    assert 0 <= divergence(plain.model.merge_and_unload(), bench.job.adapter_path) < 0.01  # rounded to bf16


def divergence(model: Any, folder: str | None) -> float:
    """Return the mean KL divergence of a stored model from another one."""
    from transformers import AutoModelForCausalLM

    assert folder is not None
    stored = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tokens = torch.arange(10, 40)[None]
    with torch.no_grad():
        p, q = (torch.log_softmax(each.eval()(tokens).logits[0], dim=-1) for each in (model, stored))
    return float((p.exp() * (p - q)).sum(dim=-1).mean())


def test_an_adapter_on_a_model_that_a_job_trained_belongs_to_that_model(bench_of: Callable[..., Bench]) -> None:
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    bench = bench_of(method="Full", max_steps=2, learning_rate=1e-3).to(Step.TRAIN)
    bench.services.cancel(bench.job_id)
    root = bench.job_id
    model = bench.services.buckets.export.uri(f"jobs/{root}/model/1")
    for format_of_export in ("adapter", "merged"):  # the second trains on the adapter of the first
        bench.export = {"format": format_of_export}
        go_on(bench, rows.train_rows(8), rows.held_out_rows(4), max_steps=2).to(Step.EXPORT)
        folder = adapter_folder(bench)
        assert PeftConfig.from_pretrained(folder).base_model_name_or_path == model
        plain = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager"), folder
        )
    assert bench.job.base_model_folder == f"jobs/{root}/model/1"
    assert bench.job.lineage[-1] == root
    assert 0 <= divergence(plain.merge_and_unload(), bench.job.adapter_path) < 0.01


def test_all_weights_are_trained_on_from_a_job(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of(method="Full", max_steps=2, learning_rate=1e-3).to(Step.TRAIN)
    bench.services.cancel(bench.job_id)
    before = bench.job
    assert before.metrics is not None
    go_on(bench, rows.train_rows(24), rows.held_out_rows(8), method="Full", max_steps=1, learning_rate=1e-4)
    bench.to(Step.EXPORT)
    assert bench.job.metrics is not None
    assert bench.job.metrics.baseline is not None
    assert bench.job.metrics.baseline.eval_loss == before.metrics.eval_loss
    assert "adapter" not in (Path(bench.job.adapter_path or "") / "README.md").read_text().split("##")[0]


def test_an_adapter_is_not_trained_on_with_another_base_model(
    bench_of: Callable[..., Bench], tiny: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny, tmp_path / "mine"))
    bench = bench_of(base_model_id=str(base), max_steps=1).to(Step.TRAIN)
    bench.services.cancel(bench.job_id)
    config = base / "config.json"
    config.write_text(config.read_text() + "\n")
    go_on(bench, rows.train_rows(8), rows.held_out_rows(4))
    with pytest.raises(StepError, match=r"trained with: config\.json has other content") as caught:
        bench.run(Step.PREPARE)
    assert caught.value.code == "base_changed"
