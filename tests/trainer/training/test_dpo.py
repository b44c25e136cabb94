"""DPO on a tiny model: learning, metrics, losses and exact resumption."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

from gemtune.jobs.status import Step
from gemtune.request.rl_spec import DpoLoss
from tests import preference_rows, rows, tiny_gemma
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_train import adapter, after_steps
from tests.trainer.training.rl_trainers import make_trainer, prepared_folder, randomize_adapter
from trainer.rows.prepared import read_tokens
from trainer.training.reinforcement import log_evaluation

BETA = 0.2


def dpo_bench(bench_of: Callable[..., Bench], **training: Any) -> Bench:
    rl = {"algorithm": "dpo", "beta": BETA} | training.pop("rl", {})
    count = training.pop("rows", 24)
    bench = bench_of(method="RL", rl_config=rl, **training)
    bench.put("train", preference_rows.pairs(rows.train_rows(count)))
    bench.put("eval", preference_rows.pairs(rows.held_out_rows(7)))
    return bench


def log_probability(model: Any, prompt: list[int], answer: list[int]) -> float:
    """Return an answer's log probability given its prompt.

    It is computed row by row, without padding, in float64.
    """
    ids = torch.tensor([prompt + answer])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1].double()
    chosen = torch.log_softmax(logits, dim=-1).gather(1, ids[0, 1:, None])[len(prompt) - 1 :]
    return float(chosen.sum())


def reference_metrics(model: Any, pairs: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Return loss, margin and accuracy, computed pair by pair.

    By Rafailov et al., arXiv:2305.18290, equations 6 and 7; the reference is the model with its adapter disabled.
    """
    losses, margins = [], []
    for pair in pairs:
        ratios = {}
        for name in ("chosen_ids", "rejected_ids"):
            policy = log_probability(model, pair["prompt_ids"], pair[name])
            with model.disable_adapter():
                ratios[name] = policy - log_probability(model, pair["prompt_ids"], pair[name])
        margins.append(BETA * (ratios["chosen_ids"] - ratios["rejected_ids"]))
        losses.append(math.log(1 + math.exp(-margins[-1])))
    count = len(pairs)
    return sum(losses) / count, sum(margins) / count, sum(margin > 0 for margin in margins) / count


def held_out_pairs(bench: Bench) -> list[dict[str, Any]]:
    return list(read_tokens(prepared_folder(bench) / "eval.parquet"))


def logged_entries(bench: Bench) -> list[dict[str, Any]]:
    from gemtune.training_files.loss_history import loss_history

    return loss_history(bench.services.buckets.export, bench.job_id, after=0)


def test_the_margin_rises_and_the_metrics_match_a_reference_computation(
    bench_of: Callable[..., Bench],
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    bench = dpo_bench(bench_of, max_steps=8, batch_size=3, eval_strategy="steps", eval_steps=4).to(Step.EXPORT)
    job = bench.job
    base = AutoModelForCausalLM.from_pretrained(bench.base)
    plain = {name: weight.clone() for name, weight in base.named_parameters()}
    assert job.adapter_path is not None
    model = PeftModel.from_pretrained(base, job.adapter_path).eval()
    loss, margin, accuracy = reference_metrics(model, held_out_pairs(bench))
    assert job.metrics is not None
    assert job.metrics.by_name() == pytest.approx(
        {"eval_loss": loss, "margin": margin, "preference_accuracy": accuracy}, rel=1e-4
    )
    assert job.metrics.baseline is not None
    assert job.metrics.baseline.by_name() == pytest.approx(
        {"eval_loss": math.log(2), "margin": 0.0, "preference_accuracy": 0.0}, abs=1e-6
    )
    assert margin > 0.5
    assert accuracy == 1

    merged = {n.replace("base_model.model.", "").replace(".base_layer", ""): w for n, w in model.named_parameters()}
    assert all(torch.equal(weight, merged[name]) for name, weight in plain.items())
    assert not [name for name in load_file(Path(job.adapter_path) / "adapter_model.safetensors") if "lora_" not in name]
    steps = [entry for entry in logged_entries(bench) if "loss" in entry]
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[-1]["rewards/margins"] > steps[1]["rewards/margins"] > steps[0]["rewards/margins"] == 0
    assert {"rewards/accuracies", "rewards/chosen", "rewards/rejected"} <= set(steps[0])
    assert [entry["train_step"] for entry in logged_entries(bench) if "eval_loss" in entry] == [4, 8]
    assert job.progress is not None
    assert job.progress.margin == steps[-1]["rewards/margins"]
    assert job.progress.tokens_per_second  # a number that is not zero
    card = (Path(job.adapter_path) / "README.md").read_text()
    assert f"| margin | 0.0000 | {job.metrics.margin:.4f} |" in card


def test_a_resumed_training_ends_with_the_same_weights(bench_of: Callable[..., Bench]) -> None:
    training: dict[str, Any] = {
        "max_steps": None,
        "epochs": 2,
        "batch_size": 5,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_steps": 100,
        "rows": 14,
        "logging_steps": 3,
    }
    uninterrupted = dpo_bench(bench_of, **training).to(Step.TRAIN)
    interrupted = dpo_bench(bench_of, **training).to(Step.PREPARE)
    for stop in (2, 2):  # within the first epoch, and within the second
        interrupted.run(Step.TRAIN, should_stop=after_steps(stop))
    assert interrupted.job.steps[Step.TRAIN].checkpoint == 4
    interrupted.run(Step.TRAIN)
    assert interrupted.curve() == uninterrupted.curve()
    assert [entry.get("rewards/margins") for entry in logged_entries(interrupted)] == [
        entry.get("rewards/margins") for entry in logged_entries(uninterrupted)
    ]
    before, after = adapter(uninterrupted), adapter(interrupted, attempt=3)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert interrupted.job.metrics == uninterrupted.job.metrics


def test_dpo_metrics_respect_the_soft_caps_of_gemma_2(bench_of: Callable[..., Bench], tmp_path: Path) -> None:
    bench = dpo_bench(bench_of).to(Step.PREPARE)
    trainer = make_trainer(bench, tmp_path, base=tiny_gemma.build(tmp_path / "gemma2", "gemma2"))
    model = randomize_adapter(trainer.model)
    assert model.config._attn_implementation == "eager"
    measured = trainer.evaluation_metrics().by_name()
    loss, margin, accuracy = reference_metrics(model.eval(), held_out_pairs(bench))
    assert measured == pytest.approx({"eval_loss": loss, "margin": margin, "preference_accuracy": accuracy}, rel=1e-4)


def test_every_loss_of_the_contract_is_known_to_trl(bench_of: Callable[..., Bench], tmp_path: Path) -> None:
    bench = dpo_bench(bench_of).to(Step.PREPARE)
    torch.manual_seed(4)  # with other seeds two losses of this batch can coincide
    trainer = make_trainer(bench, tmp_path)
    assert "ref" not in trainer.model.peft_config
    randomize_adapter(trainer.model).train()
    batch: Mapping[str, Any] = next(iter(trainer.get_train_dataloader()))
    trainer.label_smoothing = 0.1
    losses = {}
    for name in get_args(DpoLoss):
        trainer.loss_types = [name]
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        losses[name] = float(loss.detach())
    assert all(math.isfinite(loss) for loss in losses.values())
    assert len(set(losses.values())) == len(losses)
    trained = {name for name, weight in trainer.model.named_parameters() if weight.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)


def with_eval_batch_size(trainer: Any, count: int) -> Any:
    """Change the number of pairs per evaluation batch; return the trainer."""
    trainer.args.per_device_eval_batch_size = count
    trainer._eval_dataloaders = {}
    return trainer


def test_metrics_of_no_loss_depend_on_the_batch_size(bench_of: Callable[..., Bench], tmp_path: Path) -> None:
    """Sorted losses span all pairs, and SFT's averages over all tokens."""
    bench = dpo_bench(bench_of).to(Step.PREPARE)
    trainer = make_trainer(bench, tmp_path)
    randomize_adapter(trainer.model)
    trainer.label_smoothing = 0.1
    pairs = len(held_out_pairs(bench))
    for name in get_args(DpoLoss):
        trainer.loss_types = [name]
        divided, whole = (with_eval_batch_size(trainer, count).evaluation_metrics().by_name() for count in (3, pairs))
        assert divided == pytest.approx(whole, rel=1e-5), name
    rows_of_batches = [len(batch["input_ids"]) for batch in with_eval_batch_size(trainer, 3).get_eval_dataloader()]
    assert rows_of_batches == [6, 6, 2]  # two rows per pair


def test_a_sorted_loss_spans_all_pairs(bench_of: Callable[..., Bench], tmp_path: Path) -> None:
    """Compare with AOT by Melnyk et al., arXiv:2406.05882, row by row."""
    bench = dpo_bench(bench_of, rl={"loss_type": "aot"}).to(Step.PREPARE)
    trainer = make_trainer(bench, tmp_path)
    model = randomize_adapter(trainer.model).eval()
    pairs = held_out_pairs(bench)

    def sorted_ratios() -> torch.Tensor:
        ratios = [
            log_probability(model, pair["prompt_ids"], pair["chosen_ids"])
            - log_probability(model, pair["prompt_ids"], pair["rejected_ids"])
            for pair in pairs
        ]
        return torch.tensor(ratios, dtype=torch.float64).sort().values

    policy = sorted_ratios()
    with model.disable_adapter():
        reference = sorted_ratios()
    expected = torch.nn.functional.softplus(-BETA * (policy - reference)).mean()
    assert with_eval_batch_size(trainer, 2).evaluation_metrics().eval_loss == pytest.approx(float(expected), rel=1e-5)


def test_a_batch_is_counted_without_padding_and_logged_without_metrics_of_logits(
    bench_of: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = dpo_bench(bench_of, batch_size=5).to(Step.PREPARE)
    trainer = make_trainer(bench, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    assert not bool(batch["attention_mask"].all())
    tokens = int(batch["attention_mask"].sum())
    for _ in range(2):
        trainer.training_step(trainer.model, dict(batch))
    assert trainer.tokens_seen == 2 * tokens
    logged = set(trainer.unlogged_metrics())
    assert {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"} <= logged
    assert logged & {"logits/chosen", "logits/rejected", "mean_token_accuracy"} == set()


def test_an_evaluation_is_logged_for_tensorboard_and_wandb(bench_of: Callable[..., Bench], tmp_path: Path) -> None:
    trainer = make_trainer(dpo_bench(bench_of).to(Step.PREPARE), tmp_path)
    entry = log_evaluation(trainer, trainer.evaluation_metrics())
    assert entry["eval_loss"] > 0
    assert trainer.state.log_history[-1].items() >= entry.items()


@pytest.mark.parametrize("is_training", [True, False])
def test_an_evaluation_does_not_change_the_state_of_the_training(
    bench_of: Callable[..., Bench], tmp_path: Path, is_training: bool
) -> None:
    trainer = make_trainer(dpo_bench(bench_of).to(Step.PREPARE), tmp_path)
    randomize_adapter(trainer.model).train(is_training)
    counted, before = trainer.tokens_seen, dict(trainer.unlogged_metrics())
    first, second = trainer.evaluation_metrics(), trainer.evaluation_metrics()
    assert first == second
    assert trainer.model.training is is_training
    assert (trainer.tokens_seen, trainer.unlogged_metrics()) == (counted, before)
    assert not trainer._metrics["eval"]  # else TRL logs them with what is logged next
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.compute_loss(trainer.model.train(), batch).requires_grad  # the model is called again


def test_the_parameters_of_a_request_reach_trl(bench_of: Callable[..., Bench], tmp_path: Path) -> None:
    bench = dpo_bench(bench_of).to(Step.PREPARE)
    args = make_trainer(bench, tmp_path, beta=0.7, loss_type="robust", label_smoothing=0.2).args
    assert (args.beta, args.loss_type, args.label_smoothing, args.max_length) == (0.7, ["robust"], 0.2, None)
    assert (args.disable_dropout, args.gradient_checkpointing) == (True, not args.use_cpu)
