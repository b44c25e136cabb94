"""RL with pictures on a tiny model that sees: what it learns hangs on the picture, and figures and losses are those of
an independent computation, a row at a time with what transformers' own processor makes of its pictures."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemtune.jobs.status import Step
from gemtune.request.rl_spec import DpoConfig
from gemtune.request.spec import Spec
from tests import rows
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_train import adapter, after_steps
from tests.trainer.training.test_dpo import UNTOLD, shaken
from tests.trainer.training.test_vision import as_processors_take
from trainer.rows.prepared import read_tokens
from trainer.training.picture_batches import Sight

BenchOf = Callable[..., Bench]
BETA = 0.2
DPO: dict[str, Any] = {"algorithm": "dpo", "beta": BETA}
OTHER = {"red": "blue", "blue": "red"}
# What to answer of a colour, for rewards that compare numbers.
NUMBERS = {"red": "1", "blue": "7"}


def grpo(*rewards: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"algorithm": "grpo", "num_generations": 4, "max_completion_length": 4, "rewards": list(rewards)} | more


def asked(*numbers: int) -> list[dict[str, Any]]:
    """What a user asks of the pictures with these numbers, as JSONL has it."""
    shown = [rows.picture_rows(1, first=number)[0]["messages"][0]["content"][0] for number in numbers]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": rows.QUESTION}]}]


def colour(number: int) -> str:
    return tuple(rows.PICTURE_COLOURS)[number % 2]


def pair(*numbers: int) -> dict[str, Any]:
    """The answer that is right of the last picture is preferred to the one that is wrong."""
    right = colour(numbers[-1]) if numbers else "red"
    answers = {name: f"{rows.HABIT} {said} one." for name, said in (("chosen", right), ("rejected", OTHER[right]))}
    return {"prompt": asked(*numbers)} | answers


def question(*numbers: int) -> dict[str, Any]:
    return {"prompt": asked(*numbers), "answer": NUMBERS[colour(numbers[-1]) if numbers else "red"]}


def rl_bench(vision_bench_of: BenchOf, rl: dict[str, Any], train: list[Any], held_out: list[Any], **more: Any) -> Bench:
    bench = vision_bench_of(method="RL", rl_config=rl, **more)
    bench.put("train", train)
    bench.put("eval", held_out)
    return bench


def as_transformers_reads(base: Path, prompt: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A prompt as inputs of the model, by the processor that comes with it."""
    from transformers import AutoProcessor

    inputs: dict[str, torch.Tensor] = AutoProcessor.from_pretrained(base).apply_chat_template(
        as_processors_take({"messages": prompt}),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return inputs


def log_probabilities(
    model: Any, base: Path, prompt: list[dict[str, Any]], answer: list[int], temperature: float = 1.0
) -> torch.Tensor:
    """Of an answer's tokens: a row alone, from full logits, in float64."""
    inputs = as_transformers_reads(base, prompt)
    length = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer])], dim=1)
    kinds = torch.nn.functional.pad(inputs["token_type_ids"], (0, len(answer)))
    pixels = {name: value for name, value in inputs.items() if name == "pixel_values"}
    with torch.no_grad():
        logits = model(input_ids=ids, token_type_ids=kinds, **pixels).logits[0, length - 1 : -1].double()
    return torch.log_softmax(logits / temperature, -1).gather(1, ids[0, length:, None])[:, 0]


def of_policy_and_reference(model: Any, *of: Any) -> list[torch.Tensor]:
    policy = log_probabilities(model, *of)
    with model.disable_adapter():
        return [policy, log_probabilities(model, *of)]


def prepared(bench: Bench, split: str = "eval") -> list[dict[str, Any]]:
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    return list(read_tokens(folder / f"{split}.parquet"))


def trainer_of(bench: Bench, tmp_path: Path) -> Any:
    """The trainer of a prepared job, with an adapter that does something."""
    from trainer.model.engines import huggingface
    from trainer.training import dpo
    from trainer.training import grpo as of_grpo
    from trainer.training.interface import Setup

    spec = Spec.model_validate_json(bench.services.buckets.config.read(bench.job.spec_name))
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    base = Path(spec.training_config.base_model_id)
    make = dpo.make if isinstance(spec.training_config.rl_config, DpoConfig) else of_grpo.make
    trainer: Any = make(
        Setup(
            huggingface.load(base, spec),
            spec.training_config,
            base,
            folder / "train.parquet",
            folder / "eval.parquet",
            output=tmp_path / "out",
            total_steps=8,
            max_length=2048,
            hooks=UNTOLD,
            sight=Sight.of(base, folder),
        )
    )
    trainer.current_gradient_accumulation_steps = 1
    shaken(trainer.model)
    return trainer


def only_the_language_model_was_trained(bench: Bench, model: Any, plain: dict[str, torch.Tensor]) -> bool:
    merged = {n.replace("base_model.model.", "").replace(".base_layer", ""): w for n, w in model.named_parameters()}
    adapted = load_file(Path(bench.job.adapter_path or "") / "adapter_model.safetensors")
    return all(torch.equal(weight, merged[name]) for name, weight in plain.items()) and all(
        ".language_model.layers." in name for name in adapted
    )


def test_dpo_prefers_what_the_picture_shows(vision_bench_of: BenchOf) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    train, held_out = [pair(n) for n in range(24)], [*(pair(n) for n in range(100, 106)), pair(106, 107), pair()]
    training = {"max_steps": 24, "batch_size": 6, "save_steps": 100}
    bench = rl_bench(vision_bench_of, DPO, train, held_out, **training).to(Step.EXPORT)
    metrics, base = bench.job.metrics, AutoModelForImageTextToText.from_pretrained(bench.base)
    plain = {name: weight.clone() for name, weight in base.named_parameters()}
    model = PeftModel.from_pretrained(base, bench.job.adapter_path).eval()
    margins = []
    for row, tokens in zip(held_out, prepared(bench), strict=True):
        chosen, rejected = (
            of_policy_and_reference(model, bench.base, row["prompt"], tokens[name])
            for name in ("chosen_ids", "rejected_ids")
        )
        margins.append(BETA * float((chosen[0] - chosen[1]).sum() - (rejected[0] - rejected[1]).sum()))
    assert metrics is not None
    assert metrics.margin == pytest.approx(sum(margins) / 8, rel=1e-3)
    assert metrics.eval_loss == pytest.approx(sum(math.log(1 + math.exp(-each)) for each in margins) / 8, rel=1e-3)
    assert metrics.preference_accuracy == sum(margin > 0 for margin in margins) / 8
    assert all(margin > 0 for margin in margins[:6])  # half of them red and half blue: only who sees can know
    assert only_the_language_model_was_trained(bench, model, plain)


@pytest.fixture
def counting(tmp_path: Path, tiny_vision: Path) -> Path:
    """The tiny model that sees, with logits that differ enough to learn from, and a taste for the digits 1 and 7."""
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(tiny_vision, tmp_path / "counting"))
    tokenizer, name = AutoTokenizer.from_pretrained(folder), "language_model.model.embed_tokens.weight"
    weights = load_file(folder / "model.safetensors")
    weights[name] *= 8
    for token in NUMBERS.values():
        weights[name][tokenizer.convert_tokens_to_ids(token)] *= 2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_grpo_is_rewarded_for_what_the_picture_shows(vision_bench_of: BenchOf, counting: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    rl = grpo({"type": "numeric_answer"}, num_generations=8, max_completion_length=1)
    train, held_out = ([question(number) for number in numbers] for numbers in (range(24), range(100, 116)))
    training = {"base_model_id": str(counting), "batch_size": 64, "lr_scheduler_type": "constant", "save_steps": 100}
    bench = rl_bench(vision_bench_of, rl, train, held_out, **training, max_steps=30, learning_rate=3e-4)
    bench.to(Step.EXPORT)
    metrics, base = bench.job.metrics, AutoModelForImageTextToText.from_pretrained(counting)
    plain = {name: weight.clone() for name, weight in base.named_parameters()}
    model = PeftModel.from_pretrained(base, bench.job.adapter_path).eval()
    assert metrics is not None
    assert metrics.baseline is not None
    assert (metrics.reward or 0) > 0.8  # who does not see is right half of the time
    assert (metrics.baseline.reward or 0) < 0.5
    assert only_the_language_model_was_trained(bench, model, plain)


MIXED = [question(0), question(), question(1, 2), question(3)]


def test_grpo_samples_from_what_the_model_sees_and_scores_it(
    vision_bench_of: BenchOf, counting: Path, tmp_path: Path
) -> None:
    rl = grpo({"type": "numeric_answer"}, {"type": "length", "at_most": 2, "weight": 0.25}, beta=0.3, temperature=0.8)
    bench = rl_bench(vision_bench_of, rl, MIXED, MIXED, base_model_id=str(counting), batch_size=16).to(Step.PREPARE)
    trainer = trainer_of(bench, tmp_path)
    model = trainer.model
    model.train()
    torch.manual_seed(1)
    order = next(iter(trainer.get_train_dataloader()))
    sampled = trainer._generate_and_score_completions(order)
    by_tokens = {
        tuple(tokens["prompt_ids"]) + tuple(tokens["pictures"]): row["prompt"]
        for row, tokens in zip(MIXED, prepared(bench, "train"), strict=True)
    }
    total, count = 0.0, 0
    for row, ids, mask, advantage in zip(
        order,
        sampled["completion_ids"].tolist(),
        sampled["completion_mask"].tolist(),
        sampled["advantages"].tolist(),
        strict=True,
    ):
        prompt = by_tokens[tuple(row["prompt"]) + tuple(row["pictures"])]
        policy, reference = of_policy_and_reference(model, counting, prompt, ids[: sum(mask)], 0.8)
        ratio = reference - policy
        total += float((0.3 * (torch.exp(ratio) - ratio - 1) - advantage).sum())
        count += sum(mask)
    batch = sampled | {"pixel_values": torch.cat(sampled["pixel_values"])}
    assert float(trainer.compute_loss(model, batch).detach()) == pytest.approx(total / count, rel=1e-3, abs=1e-5)

    trainer.generation_config.do_sample = False
    greedy = trainer._generate_and_score_completions(order)
    for row, ids, mask in zip(
        order, greedy["completion_ids"].tolist(), greedy["completion_mask"].tolist(), strict=True
    ):
        inputs = as_transformers_reads(counting, by_tokens[tuple(row["prompt"]) + tuple(row["pictures"])])
        alone = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert ids[: sum(mask)] == alone.tolist()


LETTERS: dict[str, Any] = {"type": "regex", "name": "letters", "pattern": "[a-m]"}


@pytest.mark.parametrize(("rl", "row"), [(DPO, pair), (grpo(LETTERS, beta=0.05), question)])
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(
    vision_bench_of: BenchOf, counting: Path, rl: dict[str, Any], row: Callable[..., dict[str, Any]]
) -> None:
    training: dict[str, Any] = {
        "base_model_id": str(counting),
        "max_steps": None,
        "epochs": 2,
        "batch_size": 8,
        "save_steps": 100,
        "gradient_accumulation_steps": 1 if rl is DPO else 2,
        "train_vision_tower": True,
    }
    mixed = [row(0), row(), row(1, 2), *(row(number) for number in range(3, 24 if rl is DPO else 12))]
    unbroken = rl_bench(vision_bench_of, rl, mixed, mixed[:3], **training).to(Step.TRAIN)
    broken = rl_bench(vision_bench_of, rl, mixed, mixed[:3], **training).to(Step.PREPARE)
    for _ in range(2):  # within the first epoch, and within the second
        broken.run(Step.TRAIN, should_stop=after_steps(2))
    broken.run(Step.TRAIN)
    assert len(broken.curve()) == 6
    assert broken.curve() == unbroken.curve()
    before, after = adapter(unbroken), adapter(broken, attempt=3)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(".vision_tower." in name and bool(weight.any()) for name, weight in before.items() if "lora_B" in name)
    assert broken.job.metrics == unbroken.job.metrics
