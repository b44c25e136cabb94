"""GRPO on a tiny model: learning, advantages, losses and exact resumption."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from gemtune.errors import StepError
from gemtune.jobs.status import Step
from gemtune.request.rl_spec import GrpoLoss
from tests import preference_rows, rows
from tests.trainer.conftest import END_OF_TURN, Bench
from tests.trainer.steps.test_train import adapter, after_steps
from tests.trainer.training.plain_trl import HAS_AN_E, SHORT
from tests.trainer.training.rl_trainers import make_trainer, randomize_adapter


def grpo_bench(bench_of: Callable[..., Bench], base: Path, *rewards: dict[str, Any], **training: Any) -> Bench:
    rl = {"algorithm": "grpo", "num_generations": 4, "max_completion_length": 6, "rewards": list(rewards)}
    rl |= training.pop("rl", {})
    count = training.pop("rows", 24)
    bench = bench_of(method="RL", rl_config=rl, **({"base_model_id": str(base), "batch_size": 16} | training))
    bench.put("train", preference_rows.prompts(rows.train_rows(count)))
    bench.put("eval", preference_rows.prompts(rows.held_out_rows(8)))
    return bench


def logged_entries(bench: Bench) -> list[dict[str, Any]]:
    from gemtune.training_files.loss_history import loss_history

    return loss_history(bench.services.buckets.export, bench.job_id, after=0)


def test_the_reward_rises_and_the_adapter_answers_accordingly(
    bench_of: Callable[..., Bench], confident_tiny: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    bench = grpo_bench(
        bench_of, confident_tiny, HAS_AN_E, learning_rate=0.02, max_steps=10, eval_strategy="steps", eval_steps=5
    ).to(Step.EXPORT)
    job = bench.job
    assert job.metrics is not None
    assert job.metrics.baseline is not None
    assert job.metrics.baseline.reward is not None
    assert job.metrics.reward is not None
    assert job.metrics.reward > job.metrics.baseline.reward + 0.3
    assert job.metrics.rewards == {"has_e": job.metrics.reward}
    steps = [entry for entry in logged_entries(bench) if "loss" in entry]
    assert statistics.mean(entry["reward"] for entry in steps[-3:]) > steps[0]["reward"] + 0.3
    assert {"rewards/has_e/mean", "reward_std", "completions/mean_length"} <= set(steps[0])
    assert job.progress is not None
    assert job.progress.reward == steps[-1]["reward"]
    evaluated = [entry for entry in logged_entries(bench) if "loss" not in entry]
    assert [entry["train_step"] for entry in evaluated] == [5, 10]
    assert evaluated[-1]["reward"] == job.metrics.reward  # the last evaluation during training equals the one after it
    assert "| rewards/has_e |" in (Path(job.adapter_path or "") / "README.md").read_text()

    base = AutoModelForCausalLM.from_pretrained(confident_tiny)
    plain = {name: weight.clone() for name, weight in base.named_parameters()}
    model = PeftModel.from_pretrained(base, job.adapter_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(job.adapter_path)
    merged = {n.replace("base_model.model.", "").replace(".base_layer", ""): w for n, w in model.named_parameters()}
    assert all(torch.equal(weight, merged[name]) for name, weight in plain.items())
    turn = [{"role": "user", "content": rows.held_out_rows(1)[0]["messages"][0]["content"]}]
    inputs = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    torch.manual_seed(0)
    answers = model.generate(**inputs, max_new_tokens=6, num_return_sequences=20, do_sample=True)
    texts = tokenizer.batch_decode(answers[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert sum("e" in text for text in texts) >= 15


def test_a_resumed_training_ends_with_the_same_weights(bench_of: Callable[..., Bench], confident_tiny: Path) -> None:
    training: dict[str, Any] = {
        "max_steps": None,
        "epochs": 2,
        "rl": {"beta": 0.05},
        "gradient_accumulation_steps": 2,
        "batch_size": 8,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_steps": 100,
        "rows": 12,
        "logging_steps": 3,
    }
    uninterrupted = grpo_bench(bench_of, confident_tiny, HAS_AN_E, SHORT, **training).to(Step.TRAIN)
    interrupted = grpo_bench(bench_of, confident_tiny, HAS_AN_E, SHORT, **training).to(Step.PREPARE)
    for stop in (2, 2):  # within the first epoch, and within the second
        interrupted.run(Step.TRAIN, should_stop=after_steps(stop))
    assert interrupted.job.steps[Step.TRAIN].checkpoint == 4
    interrupted.run(Step.TRAIN)
    assert len(uninterrupted.curve()) == 2  # each window of three train_steps spans two attempts
    assert interrupted.curve() == uninterrupted.curve()
    for name in ("reward", "rewards/length/mean", "kl", "completions/mean_length"):
        assert [entry.get(name) for entry in logged_entries(interrupted)] == [
            entry.get(name) for entry in logged_entries(uninterrupted)
        ]
    before, after = adapter(uninterrupted), adapter(interrupted, attempt=3)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert interrupted.job.metrics == uninterrupted.job.metrics


def test_advantages_rewards_and_loss_match_a_reference_computation(
    bench_of: Callable[..., Bench], confident_tiny: Path, tmp_path: Path
) -> None:
    bench = grpo_bench(bench_of, confident_tiny, HAS_AN_E, SHORT, rl={"beta": 0.3, "temperature": 0.8}).to(Step.PREPARE)
    trainer = make_trainer(bench, tmp_path)
    model = randomize_adapter(trainer.model)
    model.train()
    torch.manual_seed(1)
    sampled = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))

    tokenizer, (logged,) = trainer.processing_class, trainer._metrics["train"]["reward"]
    assert tokenizer.convert_tokens_to_ids("<end_of_turn>") == END_OF_TURN
    rewards, completions = [], []
    for ids, mask in zip(sampled["completion_ids"].tolist(), sampled["completion_mask"].tolist(), strict=True):
        completion = ids[: sum(mask)]
        assert END_OF_TURN not in completion[:-1]
        completions.append(completion)
        text = tokenizer.decode([token for token in completion if token not in (1, END_OF_TURN)])
        rewards.append(("e" in text) + 0.25 * max(0, min(1, 1 - (len(completion) - 3) / 3)))
    assert any(completion[-1] == END_OF_TURN for completion in completions)
    assert logged == pytest.approx(statistics.mean(rewards))
    advantages = []
    for group in (rewards[start : start + 4] for start in range(0, 16, 4)):
        deviation = statistics.stdev(group)
        advantages += [(reward - statistics.mean(group)) / (deviation + 1e-4) for reward in group]
    assert sampled["advantages"].tolist() == pytest.approx(advantages, abs=1e-5)

    # DAPO's mean over all tokens; on-policy the ratio is 1. KL by Schulman's k3 estimator, at the sampling temperature.
    total, tokens = 0.0, 0
    prompts = [
        ids[-sum(mask) :]
        for ids, mask in zip(sampled["prompt_ids"].tolist(), sampled["prompt_mask"].tolist(), strict=True)
    ]
    for prompt, completion, advantage in zip(prompts, completions, advantages, strict=True):
        ids = torch.tensor([prompt + completion])
        logps = []
        for disabled in (False, True):
            with torch.no_grad(), model.disable_adapter() if disabled else torch.no_grad():
                logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double() / 0.8
            logps.append(torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt) :, None])[:, 0])
        ratio = logps[1] - logps[0]
        total += float((0.3 * (torch.exp(ratio) - ratio - 1) - advantage).sum())
        tokens += len(completion)
    loss = trainer.compute_loss(model, sampled)
    assert float(loss.detach()) == pytest.approx(total / tokens, rel=1e-3, abs=1e-5)


def test_the_parameters_of_a_request_reach_trl(
    bench_of: Callable[..., Bench], confident_tiny: Path, tmp_path: Path
) -> None:
    bench = grpo_bench(bench_of, confident_tiny, HAS_AN_E, SHORT, rl={"temperature": 0.8, "beta": 0.3}).to(Step.PREPARE)
    args = {name: make_trainer(bench, tmp_path, loss_type=name).args for name in ("dapo", "cispo", "luspo")}
    for name, each in args.items():
        assert (each.loss_type, each.temperature, each.beta, each.reward_weights) == (name, 0.8, 0.3, [1.0, 0.25])
        assert (each.num_generations, each.num_generations_eval, each.max_completion_length) == (4, 1, 6)
        assert each.per_device_eval_batch_size == 8
    # CISPO clips from above at 5, whatever TRL's default is; LUSPO weighs whole sequences.
    assert args["cispo"].epsilon_high == 5.0
    assert args["dapo"].epsilon_high in (None, args["dapo"].epsilon)
    assert {name: each.importance_sampling_level for name, each in args.items()} == {
        "dapo": "token",
        "cispo": "token",
        "luspo": "sequence",
    }


def test_tokens_of_prompts_and_completions_are_counted_in_training_only(
    bench_of: Callable[..., Bench], confident_tiny: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(grpo_bench(bench_of, confident_tiny, HAS_AN_E).to(Step.PREPARE), tmp_path)
    trainer.evaluation_metrics()
    assert trainer.tokens_seen == 0
    assert trainer._metrics["eval"] == {}
    trainer.model.train()
    sampled = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    assert trainer.tokens_seen == int(sampled["prompt_mask"].sum() + sampled["completion_mask"].sum())


def test_every_loss_of_the_contract_is_known_to_trl(
    bench_of: Callable[..., Bench], confident_tiny: Path, tmp_path: Path
) -> None:
    bench = grpo_bench(bench_of, confident_tiny, HAS_AN_E, rl={"beta": 0.1}).to(Step.PREPARE)
    trainer = make_trainer(bench, tmp_path)
    assert "ref" not in trainer.model.peft_config
    randomize_adapter(trainer.model).train()
    torch.manual_seed(1)
    sampled = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    for name in get_args(GrpoLoss):
        trainer.loss_type = name
        trainer.importance_sampling_level = "sequence" if name == "luspo" else "token"
        loss = trainer.compute_loss(trainer.model, sampled)
        loss.backward()
        assert math.isfinite(float(loss.detach()))
    assert any(weight.grad is not None and bool(weight.grad.abs().sum() > 0) for weight in trainer.model.parameters())


def test_an_evaluation_does_not_depend_on_the_batch_size(
    bench_of: Callable[..., Bench], confident_tiny: Path, tmp_path: Path
) -> None:
    results = []
    for batch_size in (4, 16):
        bench = grpo_bench(bench_of, confident_tiny, HAS_AN_E, SHORT, batch_size=batch_size)
        bench.put("eval", preference_rows.prompts(rows.held_out_rows(20)))  # more than are generated together
        results.append(make_trainer(bench.to(Step.PREPARE), tmp_path).evaluation_metrics())
    assert results[0].reward not in (0.0, 1.0)
    assert results[0] == results[1]


def test_an_evaluation_does_not_change_the_state_of_the_training(
    bench_of: Callable[..., Bench], confident_tiny: Path, tmp_path: Path
) -> None:
    bench = grpo_bench(bench_of, confident_tiny, HAS_AN_E, SHORT).to(Step.PREPARE)
    trainer = make_trainer(bench, tmp_path)
    trainer.model.train()
    before = torch.get_rng_state()
    first, second = trainer.evaluation_metrics(), trainer.evaluation_metrics()
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)
    assert trainer.model.training
    assert not trainer._metrics["eval"]  # else TRL logs them with what is logged next
    assert first.reward == pytest.approx((first.rewards or {})["has_e"] + 0.25 * (first.rewards or {})["length"])


def test_rows_that_one_reward_cannot_judge_are_scored_by_the_others(
    bench_of: Callable[..., Bench], confident_tiny: Path, tmp_path: Path
) -> None:
    """Many rows have an answer without a number, which numeric_answer needs."""
    bench = grpo_bench(bench_of, confident_tiny, HAS_AN_E, {"type": "numeric_answer", "weight": 4.0}, max_steps=3)
    bench.put("train", [{"prompt": f"Number {n}?", "answer": str(n) if n % 2 else "many"} for n in range(24)])
    bench.put("eval", [{"prompt": f"Number {n}?", "answer": "1" if n == 0 else "many"} for n in range(8)])
    bench.to(Step.TRAIN)
    metrics = bench.job.metrics
    assert metrics is not None
    assert set(metrics.rewards or {}) == {"has_e", "numeric_answer"}
    trainer = make_trainer(bench, tmp_path)
    measured = trainer.evaluation_metrics()
    scores = torch.cat(trainer._evaluated)
    assert torch.isnan(scores[:, 1]).sum() == 7
    expected = [has_e + (0 if math.isnan(number) else 4 * number) for has_e, number in scores.tolist()]
    assert measured.reward == pytest.approx(statistics.mean(expected))
    name = f"jobs/{bench.job_id}/metrics/{bench.job.steps[Step.TRAIN].attempt}.jsonl"
    assert b"NaN" not in bench.services.buckets.export.read(name)


def test_a_model_with_nan_logits_fails_as_a_loss_that_is_not_finite(
    bench_of: Callable[..., Bench], confident_tiny: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(grpo_bench(bench_of, confident_tiny, HAS_AN_E).to(Step.PREPARE), tmp_path)
    trainer.model.get_base_model().model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(StepError) as caught:
        trainer.evaluation_metrics()
    assert caught.value.code == "loss_not_finite"


def test_turns_end_even_if_the_base_model_does_not_list_end_of_turn(
    bench_of: Callable[..., Bench], confident_tiny: Path, tmp_path: Path
) -> None:
    base = tmp_path / "silent"
    base.mkdir()
    for path in confident_tiny.iterdir():
        (base / path.name).symlink_to(path)
    (base / "generation_config.json").unlink()
    config = json.loads((confident_tiny / "config.json").read_text())
    (base / "config.json").unlink()
    (base / "config.json").write_text(json.dumps(config | {"eos_token_id": 1}))
    trainer = make_trainer(grpo_bench(bench_of, base, HAS_AN_E).to(Step.PREPARE), tmp_path)
    assert END_OF_TURN in trainer.eos_token_ids
