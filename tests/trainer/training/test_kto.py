"""KTO on a tiny model: learning, metrics, losses and exact resumption."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.jobs.status import Step
from tests import preference_rows, rows
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_train import adapter, after_steps
from tests.trainer.training.rl_trainers import make_trainer, prepared_folder, randomize_adapter
from tests.trainer.training.test_dpo import log_probability, logged_entries
from trainer.rows.prepared import read_tokens

BETA, DESIRABLE, UNDESIRABLE = 0.2, 1.5, 0.7


def kto_bench(bench_of: Callable[..., Bench], **training: Any) -> Bench:
    weights = {"desirable_weight": DESIRABLE, "undesirable_weight": UNDESIRABLE}
    rl = {"algorithm": "kto", "beta": BETA} | weights | training.pop("rl", {})
    count = training.pop("rows", 24)
    bench = bench_of(method="RL", rl_config=rl, **training)
    bench.put("train", preference_rows.labelled(rows.train_rows(count)))
    bench.put("eval", preference_rows.labelled(rows.held_out_rows(7)))
    return bench


def prepared_rows(bench: Bench, split: str) -> list[dict[str, Any]]:
    return list(read_tokens(prepared_folder(bench) / f"{split}.parquet"))


def reference_losses(model: Any, batch: list[dict[str, Any]], *, loss_type: str = "kto") -> tuple[list[float], float]:
    """Return the loss of each row of a batch, and the margin, row by row.

    By Ethayarajh et al., arXiv:2402.01306, equations 7 and 8, with the weights as factors of 1 - sigmoid. The reference
    is the model with its adapter disabled.
    """

    def ratio(prompt: list[int], answer: list[int]) -> float:
        policy = log_probability(model, prompt, answer)
        with model.disable_adapter():
            return policy - log_probability(model, prompt, answer)

    others = [batch[-1], *batch[:-1]]
    pairs = zip(batch, others, strict=True)
    kl = max(0.0, sum(ratio(row["prompt_ids"], other["completion_ids"]) for row, other in pairs) / len(batch))
    ratios = [ratio(row["prompt_ids"], row["completion_ids"]) for row in batch]
    if loss_type == "apo_zero_unpaired":
        kl = 0.0
    losses, rewards = [], {True: [], False: []}  # type: dict[bool, list[float]]
    for row, value in zip(batch, ratios, strict=True):
        sign, weight = (1, DESIRABLE) if row["label"] else (-1, UNDESIRABLE)
        losses.append(weight * (1 - 1 / (1 + math.exp(-BETA * sign * (value - kl)))))
        rewards[row["label"]].append(BETA * value)
    good, bad = (sum(values) / len(values) for values in (rewards[True], rewards[False]))
    return losses, good - bad


def test_good_answers_become_likelier_and_the_metrics_match_a_reference_computation(
    bench_of: Callable[..., Bench],
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    bench = kto_bench(bench_of, max_steps=10, batch_size=6, eval_strategy="steps", eval_steps=5).to(Step.EXPORT)
    job = bench.job
    assert job.adapter_path is not None
    assert job.metrics is not None
    assert job.metrics.baseline is not None
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bench.base), job.adapter_path).eval()
    held_out = prepared_rows(bench, "eval")
    losses, margin = reference_losses(model, held_out)
    expected = {"eval_loss": sum(losses) / len(losses), "margin": margin}
    assert job.metrics.by_name() == pytest.approx(expected, rel=1e-4)
    weights = [DESIRABLE if row["label"] else UNDESIRABLE for row in held_out]
    untrained = {"eval_loss": sum(weights) / len(weights) / 2, "margin": 0.0}
    assert job.metrics.baseline.by_name() == pytest.approx(untrained, abs=1e-6)
    assert margin > 0.3

    steps = [entry for entry in logged_entries(bench) if "loss" in entry]
    assert {"kl", "rewards/chosen", "rewards/rejected", "logps/chosen"} <= {name for step in steps for name in step}
    assert [entry["train_step"] for entry in logged_entries(bench) if "eval_loss" in entry] == [5, 10]
    assert job.progress is not None
    assert job.progress.tokens_per_second  # a number that is not zero
    card = (Path(job.adapter_path) / "README.md").read_text()
    assert f"| margin | 0.0000 | {job.metrics.margin:.4f} |" in card


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_losses_and_gradients_are_those_of_plain_trl(
    bench_of: Callable[..., Bench], tmp_path: Path, loss_type: str
) -> None:
    """Compare a batch with TRL's own head and pairing, and with rows' losses."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    bench = kto_bench(bench_of, rl={"loss_type": loss_type}, batch_size=6).to(Step.PREPARE)
    batch = prepared_rows(bench, "train")[:6]
    trainer = make_trainer(bench, tmp_path)
    model = randomize_adapter(trainer.model).train()
    ours = trainer.compute_loss(model, trainer.data_collator(batch))
    ours.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    import peft

    tokenizer = AutoTokenizer.from_pretrained(bench.base)
    plain_model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(bench.base, dtype=torch.float32), model.peft_config["default"]
    )
    chats = preference_rows.labelled(rows.train_rows(24))[:6]
    conversational = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
            "label": row["label"],
        }
        for row in chats
    ]
    plain = KTOTrainer(
        model=plain_model,
        args=KTOConfig(
            str(tmp_path / "plain"),
            per_device_train_batch_size=6,
            loss_type=loss_type,
            beta=BETA,
            desirable_weight=DESIRABLE,
            undesirable_weight=UNDESIRABLE,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            report_to=[],
        ),
        train_dataset=Dataset.from_list(conversational),
        processing_class=tokenizer,
    )
    plain.model.delete_adapter("ref")
    plain.model.load_state_dict(model.state_dict(), strict=False)
    theirs = plain.compute_loss(plain.model.train(), next(iter(plain.get_train_dataloader())))
    theirs.backward()

    losses, _ = reference_losses(model.eval(), batch, loss_type=loss_type)
    assert float(ours) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    assert gradients
    for name, weight in plain.model.named_parameters():
        if weight.grad is not None:
            assert torch.allclose(gradients[name], weight.grad, rtol=1e-3, atol=1e-7), name


def test_a_resumed_training_ends_with_the_same_weights(bench_of: Callable[..., Bench]) -> None:
    training: dict[str, Any] = {
        "max_steps": None,
        "epochs": 2,
        "batch_size": 5,  # the last batch of an epoch has one row
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_steps": 100,
        "rows": 11,
        "logging_steps": 2,
    }
    uninterrupted = kto_bench(bench_of, **training).to(Step.TRAIN)
    interrupted = kto_bench(bench_of, **training).to(Step.PREPARE)
    for stop in (2, 2):  # within the first epoch, and within the second
        interrupted.run(Step.TRAIN, should_stop=after_steps(stop))
    interrupted.run(Step.TRAIN)
    assert interrupted.curve() == uninterrupted.curve()
    assert [entry.get("kl") for entry in logged_entries(interrupted)] == [
        entry.get("kl") for entry in logged_entries(uninterrupted)
    ]
    before, after = adapter(uninterrupted), adapter(interrupted, attempt=3)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert interrupted.job.metrics == uninterrupted.job.metrics


def test_metrics_do_not_depend_on_the_batch_size(bench_of: Callable[..., Bench], tmp_path: Path) -> None:
    trainer = make_trainer(kto_bench(bench_of).to(Step.PREPARE), tmp_path)
    randomize_adapter(trainer.model)
    results = []
    for count in (1, 3, 7):
        trainer.args.per_device_eval_batch_size = count
        trainer._eval_dataloaders = {}
        results.append(trainer.evaluation_metrics().by_name())
    assert all(result == pytest.approx(results[-1], rel=1e-5) for result in results)
    assert not trainer._metrics["eval"]  # else TRL logs them with what is logged next


def test_a_batch_is_counted_without_padding_and_logged_without_metrics_of_logits(
    bench_of: Callable[..., Bench], tmp_path: Path
) -> None:
    trainer = make_trainer(kto_bench(bench_of, batch_size=6).to(Step.PREPARE), tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    assert not bool(batch["attention_mask"].all())
    tokens = int(batch["attention_mask"].sum())
    for _ in range(2):
        trainer.training_step(trainer.model, dict(batch))
    assert trainer.tokens_seen == 2 * tokens
    logged = set(trainer.unlogged_metrics())
    assert {"rewards/chosen", "rewards/rejected", "rewards/margins", "kl"} <= logged
    assert not any(name.startswith("logits/") for name in logged)


def test_what_users_say_in_an_answer_is_not_scored(bench_of: Callable[..., Bench], tmp_path: Path) -> None:
    """Compare masks with the gaps that prepare found, also of DPO."""
    hi, ho = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Captain"}
    long, short = [ho, hi, ho], [{"role": "assistant", "content": "No"}]
    bench = kto_bench(bench_of)
    rows_of_two = [{"prompt": "Hi", "completion": answer, "label": answer is long} for answer in (long, short)]
    bench.put("train", rows_of_two)
    bench.to(Step.PREPARE)
    first, second = prepared_rows(bench, "train")
    batch = make_trainer(bench, tmp_path).data_collator([first, second])
    prompt, gaps = len(first["prompt_ids"]), first["completion_gaps"]
    scored = [place not in gaps for place in range(len(first["completion_ids"]))]
    assert 0 < sum(scored) < len(scored)
    assert batch["completion_mask"][0].tolist() == [0] * prompt + [int(each) for each in scored]
    assert batch["KL_completion_mask"][1].tolist() == batch["completion_mask"][0].tolist()
    assert batch["KL_completion_mask"][0].tolist() == batch["completion_mask"][1].tolist()

    pairs = bench_of(method="RL", rl_config={"algorithm": "dpo"})
    first_pair = {"prompt": "Hi", "chosen": long, "rejected": short}
    both = [first_pair, first_pair | {"chosen": short, "rejected": long}]
    pairs.put("train", both)
    pairs.put("eval", both)
    pairs.to(Step.PREPARE)
    mask = make_trainer(pairs, tmp_path).data_collator(prepared_rows(pairs, "train"))["completion_mask"]
    assert mask[0].tolist() == mask[3].tolist() == batch["completion_mask"][0].tolist()
    assert mask[1].tolist() == mask[2].tolist() == batch["completion_mask"][1].tolist()


def test_a_single_row_gets_the_answer_of_another_one() -> None:
    """With its own, the KL divergence would be its reward."""
    from trainer.training.preference.kto import with_others

    def row(answer: int) -> dict[str, Any]:
        return {"prompt_ids": [1], "completion_ids": [answer], "completion_gaps": []}

    assert [each["KL_completion_ids"] for each in with_others([row(5)], [row(5), row(6)])] == [[6]]
    assert [each["KL_completion_ids"] for each in with_others([row(5), row(6), row(7)], [])] == [[7], [5], [6]]
