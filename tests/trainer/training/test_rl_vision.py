"""RL with pictures on a tiny vision model.

The learned answers depend on the picture. Metrics and losses match a reference computation, row by row with the inputs
of transformers' own processor.
"""

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
from tests import rows
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_train import adapter, after_steps
from tests.trainer.training.rl_trainers import make_trainer, prepared_folder, randomize_adapter
from tests.trainer.training.test_vision import to_processor_messages
from trainer.rows.prepared import read_tokens

BenchOf = Callable[..., Bench]
BETA = 0.2
DPO: dict[str, Any] = {"algorithm": "dpo", "beta": BETA}
OTHER_COLOUR = {"red": "blue", "blue": "red"}
# The answer for each colour, for rewards that compare numbers.
NUMBERS = {"red": "1", "blue": "7"}


def grpo(*rewards: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"algorithm": "grpo", "num_generations": 4, "max_completion_length": 4, "rewards": list(rewards)} | more


def prompt_with(*numbers: int) -> list[dict[str, Any]]:
    """Return the prompt about the pictures with these numbers, as in JSONL."""
    pictures = [rows.picture_rows(1, first=number)[0]["messages"][0]["content"][0] for number in numbers]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": rows.QUESTION}]}]


def colour(number: int) -> str:
    return tuple(rows.PICTURE_COLOURS)[number % 2]


def pair(*numbers: int) -> dict[str, Any]:
    """Return a pair whose chosen answer is right about the last picture."""
    right = colour(numbers[-1]) if numbers else "red"
    answers = {
        name: f"{rows.HABIT} {answer_colour} one."
        for name, answer_colour in (("chosen", right), ("rejected", OTHER_COLOUR[right]))
    }
    return {"prompt": prompt_with(*numbers)} | answers


def question(*numbers: int) -> dict[str, Any]:
    return {"prompt": prompt_with(*numbers), "answer": NUMBERS[colour(numbers[-1]) if numbers else "red"]}


def rl_bench(vision_bench_of: BenchOf, rl: dict[str, Any], train: list[Any], held_out: list[Any], **more: Any) -> Bench:
    bench = vision_bench_of(method="RL", rl_config=rl, **more)
    bench.put("train", train)
    bench.put("eval", held_out)
    return bench


def reference_inputs(base: Path, prompt: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a prompt as model inputs, by the base model's own processor."""
    from transformers import AutoProcessor

    inputs: dict[str, torch.Tensor] = AutoProcessor.from_pretrained(base).apply_chat_template(
        to_processor_messages({"messages": prompt}),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return inputs


def log_probabilities(
    model: Any, base: Path, prompt: list[dict[str, Any]], answer: list[int], temperature: float = 1.0
) -> torch.Tensor:
    """Return the log probabilities of an answer's tokens.

    The row is computed alone, from full logits in float64.
    """
    inputs = reference_inputs(base, prompt)
    length = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer])], dim=1)
    kinds = torch.nn.functional.pad(inputs["token_type_ids"], (0, len(answer)))
    pixels = {name: value for name, value in inputs.items() if name == "pixel_values"}
    with torch.no_grad():
        logits = model(input_ids=ids, token_type_ids=kinds, **pixels).logits[0, length - 1 : -1].double()
    return torch.log_softmax(logits / temperature, -1).gather(1, ids[0, length:, None])[:, 0]


def policy_and_reference(model: Any, *arguments: Any) -> list[torch.Tensor]:
    policy = log_probabilities(model, *arguments)
    with model.disable_adapter():
        return [policy, log_probabilities(model, *arguments)]


def prepared(bench: Bench, split: str = "eval") -> list[dict[str, Any]]:
    return list(read_tokens(prepared_folder(bench) / f"{split}.parquet"))


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
            policy_and_reference(model, bench.base, row["prompt"], tokens[name])
            for name in ("chosen_ids", "rejected_ids")
        )
        margins.append(BETA * float((chosen[0] - chosen[1]).sum() - (rejected[0] - rejected[1]).sum()))
    assert metrics is not None
    assert metrics.margin == pytest.approx(sum(margins) / 8, rel=1e-3)
    assert metrics.eval_loss == pytest.approx(sum(math.log(1 + math.exp(-margin)) for margin in margins) / 8, rel=1e-3)
    assert metrics.preference_accuracy == sum(margin > 0 for margin in margins) / 8
    assert all(margin > 0 for margin in margins[:6])  # half are red and half blue, so the text alone is not enough
    assert only_the_language_model_was_trained(bench, model, plain)


def test_kto_scores_answers_with_the_pictures_of_their_own_prompt(vision_bench_of: BenchOf, tmp_path: Path) -> None:
    """Compare metrics with those of rows that are computed alone.

    Another row's answer is scored behind the pictures of this one.
    """
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    labels = [(pair(0), True), (pair(), False), (pair(1, 2), True), (pair(3), False), (pair(4), True)]
    labelled = [
        {"prompt": row["prompt"], "completion": row["chosen" if good else "rejected"], "label": good}
        for row, good in labels
    ]
    rl = {"algorithm": "kto", "beta": BETA}
    bench = rl_bench(vision_bench_of, rl, labelled, labelled, max_steps=3, batch_size=2, save_steps=100)
    bench.to(Step.TRAIN)
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1")
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(bench.base), folder).eval()

    def ratio(row: dict[str, Any], answer: list[int]) -> float:
        policy, reference = policy_and_reference(model, bench.base, row["prompt"], answer)
        return float((policy - reference).sum())

    answers = [tokens["completion_ids"] for tokens in prepared(bench)]
    ratios = [ratio(row, answer) for row, answer in zip(labelled, answers, strict=True)]
    others = [ratio(row, answer) for row, answer in zip(labelled, [answers[-1], *answers[:-1]], strict=True)]
    divergence = max(0.0, sum(others) / len(others))
    signs = [1 if good else -1 for _, good in labels]
    losses = [1 - 1 / (1 + math.exp(-BETA * s * (r - divergence))) for s, r in zip(signs, ratios, strict=True)]
    metrics = bench.job.metrics
    assert metrics is not None
    assert metrics.eval_loss == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    assert metrics.margin == pytest.approx(
        BETA * (sum(ratios[::2]) / 3 - sum(ratios[1::2]) / 2), rel=1e-3
    )  # good answers less bad ones
    assert abs(divergence) + abs(metrics.margin or 0) > 1e-2
    assert bench.curve()[0][1] == pytest.approx(0.5, abs=1e-4)  # the model is its own reference


@pytest.fixture
def digit_model(tmp_path: Path, tiny_vision: Path) -> Path:
    """Return a tiny vision model that RL can train.

    It often writes the digits 1 and 7.
    """
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(tiny_vision, tmp_path / "digits"))
    tokenizer, name = AutoTokenizer.from_pretrained(folder), "language_model.model.embed_tokens.weight"
    weights = load_file(folder / "model.safetensors")
    weights[name] *= 8
    for token in NUMBERS.values():
        weights[name][tokenizer.convert_tokens_to_ids(token)] *= 2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_grpo_is_rewarded_for_what_the_picture_shows(vision_bench_of: BenchOf, digit_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    rl = grpo({"type": "numeric_answer"}, num_generations=8, max_completion_length=1)
    train, held_out = ([question(number) for number in numbers] for numbers in (range(24), range(100, 116)))
    training = {"base_model_id": str(digit_model), "batch_size": 64, "lr_scheduler_type": "constant", "save_steps": 100}
    bench = rl_bench(vision_bench_of, rl, train, held_out, **training, max_steps=30, learning_rate=3e-4)
    bench.to(Step.EXPORT)
    metrics, base = bench.job.metrics, AutoModelForImageTextToText.from_pretrained(digit_model)
    plain = {name: weight.clone() for name, weight in base.named_parameters()}
    model = PeftModel.from_pretrained(base, bench.job.adapter_path).eval()
    assert metrics is not None
    assert metrics.baseline is not None
    assert (metrics.reward or 0) > 0.8  # without seeing, half of the answers would be right
    assert (metrics.baseline.reward or 0) < 0.5
    assert only_the_language_model_was_trained(bench, model, plain)


MIXED = [question(0), question(), question(1, 2), question(3)]


def test_grpo_samples_and_scores_with_the_pictures_of_each_prompt(
    vision_bench_of: BenchOf, digit_model: Path, tmp_path: Path
) -> None:
    rl = grpo({"type": "numeric_answer"}, {"type": "length", "at_most": 2, "weight": 0.25}, beta=0.3, temperature=0.8)
    bench = rl_bench(vision_bench_of, rl, MIXED, MIXED, base_model_id=str(digit_model), batch_size=16).to(Step.PREPARE)
    trainer = make_trainer(bench, tmp_path)
    assert trainer.generation_config.suppress_tokens == [trainer.pictures.soft_token]
    model = randomize_adapter(trainer.model)
    model.train()
    torch.manual_seed(1)
    batch_rows = next(iter(trainer.get_train_dataloader()))
    sampled = trainer._generate_and_score_completions(batch_rows)
    prompts = {
        tuple(tokens["prompt_ids"]) + tuple(tokens["pictures"]): row["prompt"]
        for row, tokens in zip(MIXED, prepared(bench, "train"), strict=True)
    }
    total, count = 0.0, 0
    for row, ids, mask, advantage in zip(
        batch_rows,
        sampled["completion_ids"].tolist(),
        sampled["completion_mask"].tolist(),
        sampled["advantages"].tolist(),
        strict=True,
    ):
        prompt = prompts[tuple(row["prompt"]) + tuple(row["pictures"])]
        policy, reference = policy_and_reference(model, digit_model, prompt, ids[: sum(mask)], 0.8)
        ratio = reference - policy
        total += float((0.3 * (torch.exp(ratio) - ratio - 1) - advantage).sum())
        count += sum(mask)
    batch = sampled | {"pixel_values": torch.cat(sampled["pixel_values"])}
    assert float(trainer.compute_loss(model, batch).detach()) == pytest.approx(total / count, rel=1e-3, abs=1e-5)

    trainer.generation_config.do_sample = False
    greedy = trainer._generate_and_score_completions(batch_rows)
    for row, ids, mask in zip(
        batch_rows, greedy["completion_ids"].tolist(), greedy["completion_mask"].tolist(), strict=True
    ):
        inputs = reference_inputs(digit_model, prompts[tuple(row["prompt"]) + tuple(row["pictures"])])
        alone = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert ids[: sum(mask)] == alone.tolist()


LETTERS: dict[str, Any] = {"type": "regex", "name": "letters", "pattern": "[a-m]"}


@pytest.mark.parametrize(("rl", "row"), [(DPO, pair), (grpo(LETTERS, beta=0.05), question)])
def test_a_resumed_training_ends_with_the_same_weights(
    vision_bench_of: BenchOf, digit_model: Path, rl: dict[str, Any], row: Callable[..., dict[str, Any]]
) -> None:
    training: dict[str, Any] = {
        "base_model_id": str(digit_model),
        "max_steps": None,
        "epochs": 2,
        "batch_size": 8,
        "save_steps": 100,
        "gradient_accumulation_steps": 1 if rl is DPO else 2,
        "train_vision_tower": True,
    }
    mixed = [row(0), row(), row(1, 2), *(row(number) for number in range(3, 24 if rl is DPO else 12))]
    uninterrupted = rl_bench(vision_bench_of, rl, mixed, mixed[:3], **training).to(Step.TRAIN)
    interrupted = rl_bench(vision_bench_of, rl, mixed, mixed[:3], **training).to(Step.PREPARE)
    for _ in range(2):  # within the first epoch, and within the second
        interrupted.run(Step.TRAIN, should_stop=after_steps(2))
    interrupted.run(Step.TRAIN)
    assert len(interrupted.curve()) == 6
    assert interrupted.curve() == uninterrupted.curve()
    before, after = adapter(uninterrupted), adapter(interrupted, attempt=3)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(".vision_tower." in name and bool(weight.any()) for name, weight in before.items() if "lora_B" in name)
    assert interrupted.job.metrics == uninterrupted.job.metrics
