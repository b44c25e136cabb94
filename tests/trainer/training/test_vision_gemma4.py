"""Vision jobs on tiny models of Gemma 4.

Their pictures have different numbers of tokens. Losses and metrics match a reference computation from full logits, row
by row, with the inputs of transformers' own image processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gemtune.jobs.status import Step
from tests.conversations import conversation_of
from tests.trainer.steps.test_train import adapter
from tests.trainer.training import media_jobs
from tests.trainer.training.media_jobs import BenchOf, assert_compared_with_media, reference_metrics
from tests.trainer.training.picture_rows import SCALES, chat, pair, picture, prompt, right_answer, row_inputs
from tests.trainer.training.test_rl_vision import make_trainer
from trainer.rows.prepared import read_tokens

WITH_TOWER = ("gemma4-e", "gemma4-dense", "gemma4-moe")
SHAPES = (*WITH_TOWER, "gemma4-unified")
HELD_OUT = [(number,) for number in range(100, 106)]
LEARNING = {"learning_rate": 1e-2, "max_steps": 24, "save_steps": 100, "batch_size": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return media_jobs.scaled_models(tmp_path_factory.mktemp("gemma4"), SCALES)


@pytest.fixture
def bench_for(tmp_path: Path, folders: Callable[[str], Path]) -> BenchOf:
    return media_jobs.media_benches(tmp_path, folders, "vision", chat, HELD_OUT)


def answers_of(model: Any, base: Path, numbers: range) -> list[str]:
    from transformers import AutoTokenizer

    from trainer.base_model.folder_contents import config_of
    from trainer.pictures.arrow_file import Picture
    from trainer.pictures.tokens import picture_tokens
    from trainer.rows.encoder import Encoder

    tokenizer = AutoTokenizer.from_pretrained(base)
    encoder = Encoder(base, max_length=4096, media=picture_tokens(base, config_of(base)))
    answers = []
    for number in numbers:
        # The answer is never read.
        row = {"messages": [*prompt(number), {"role": "assistant", "content": "Captain"}]}
        shown = conversation_of(row, with_pictures=True).first(1)
        ids = encoder.prompt(shown.with_images([Picture(b"", picture(number).size)]))
        assert isinstance(ids, list)
        inputs = row_inputs(base, ids, (number,))
        completion = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, len(ids) :]
        answers.append(tokenizer.decode(completion, skip_special_tokens=True).strip())
    return answers


@pytest.mark.parametrize("shape", SHAPES)
def test_an_adapter_learns_colours_without_changing_the_vision_tower(shape: str, bench_for: BenchOf) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    bench = bench_for(shape, **LEARNING).to(Step.EXPORT)
    metrics = bench.job.metrics
    assert metrics is not None
    assert metrics.baseline is not None
    base = AutoModelForImageTextToText.from_pretrained(bench.base)
    before = {name: weight.clone() for name, weight in base.named_parameters()}
    model = PeftModel.from_pretrained(base, bench.job.adapter_path).eval()
    loss, accuracy, perplexity = reference_metrics(bench, model, row_inputs, HELD_OUT)
    assert metrics.eval_loss == pytest.approx(loss, rel=1e-4)
    assert metrics.accuracy == pytest.approx(accuracy, abs=1e-9)
    assert_compared_with_media(bench, perplexity)
    with model.disable_adapter():
        assert metrics.baseline.eval_loss == pytest.approx(
            reference_metrics(bench, model, row_inputs, HELD_OUT)[0], rel=1e-4
        )
    assert answers_of(model, bench.base, range(200, 206)) == [right_answer(number) for number in range(200, 206)]
    adapted = set(adapter(bench))
    assert adapted
    assert all(".language_model.layers." in name for name in adapted)
    merged = {n.replace("base_model.model.", "").replace(".base_layer", ""): w for n, w in model.named_parameters()}
    assert all(torch.equal(weight, merged[name]) for name, weight in before.items())


def mixed_rows() -> list[dict[str, Any]]:
    """Return rows with one, no and two pictures."""
    return [*(chat(number) for number in range(5)), chat(), chat(7, 8), chat(9, 9), chat(), *map(chat, range(10, 14))]


MIXED_PICTURES = [*((number,) for number in range(5)), (), (7, 8), (9, 9), (), *((number,) for number in range(10, 14))]


@pytest.mark.parametrize("shape", ["gemma4-e", "gemma4-moe", "gemma4-unified"])
@pytest.mark.parametrize("size", [1, 5, 13])
def test_metrics_of_mixed_rows_do_not_depend_on_the_batches(shape: str, size: int, bench_for: BenchOf) -> None:
    from transformers import AutoModelForImageTextToText

    from trainer.training import metrics
    from trainer.training.batches import TokenRows
    from trainer.training.picture_batches import PictureCollator

    bench = bench_for(shape)
    bench.put("eval", mixed_rows())
    bench.run(Step.PREPARE)
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    collator, items = PictureCollator.from_folders(bench.base, folder), TokenRows(folder / "eval.parquet")
    model = AutoModelForImageTextToText.from_pretrained(bench.base).eval()
    batches = [
        collator.collate([items[index] for index in range(first, min(first + size, len(items)))])
        for first in range(0, len(items), size)
    ]
    measured = metrics.evaluate(model, batches, torch.float32).evaluation_metrics(["accuracy"])
    loss, accuracy, _ = reference_metrics(bench, model, row_inputs, MIXED_PICTURES)
    assert measured.eval_loss == pytest.approx(loss, rel=1e-5)
    assert measured.accuracy == pytest.approx(accuracy, abs=1e-9)


@pytest.mark.parametrize("shape", ["gemma4-dense", "gemma4-unified"])
def test_pictures_of_large_models_are_one_block_of_attention(shape: str, bench_for: BenchOf) -> None:
    """Leaving out the type ids changes logits.

    So the tests of losses notice when they are missing.
    """
    from transformers import AutoModelForImageTextToText

    bench = bench_for(shape)
    bench.run(Step.PREPARE)
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    row = next(iter(read_tokens(folder / "eval.parquet")))
    inputs = row_inputs(bench.base, row["input_ids"], (100,))
    model = AutoModelForImageTextToText.from_pretrained(bench.base).eval()
    with torch.no_grad():
        with_blocks = model(**inputs).logits
        without = model(**inputs | {"mm_token_type_ids": torch.zeros_like(inputs["mm_token_type_ids"])}).logits
    assert float((with_blocks - without).abs().max()) > 0.05


def log_probability(model: Any, base: Path, row: dict[str, Any], name: str, numbers: tuple[int, ...]) -> float:
    """Return the log probability of a prepared answer, in float64."""
    ids, length = [*row["prompt_ids"], *row[name]], len(row["prompt_ids"])
    with torch.no_grad():
        logits = model(**row_inputs(base, ids, numbers)).logits[0, length - 1 : -1].double()
    answer = torch.tensor(row[name])[:, None]
    return float(torch.log_softmax(logits, -1).gather(1, answer).sum())


@pytest.mark.parametrize("shape", ["gemma4-e", "gemma4-unified"])
def test_kto_scores_answers_with_the_pictures_of_their_own_prompt(shape: str, bench_for: BenchOf) -> None:
    """Compare metrics with those of rows that are computed alone.

    The KL divergence is that of another row's answer behind the pictures of this one.
    """
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    beta, numbers = 0.2, [(0,), (), (1, 2), (3,)]
    labels = [True, False, True, False]
    labelled = [
        {"prompt": row["prompt"], "completion": row["chosen" if good else "rejected"], "label": good}
        for row, good in zip([pair(*each) for each in numbers], labels, strict=True)
    ]
    rl = {"algorithm": "kto", "beta": beta}
    bench = bench_for(shape, method="RL", rl_config=rl, batch_size=2, max_steps=3, save_steps=100)
    for split in ("train", "eval"):
        bench.put(split, labelled)
    bench.to(Step.TRAIN)
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1")
    tokens = list(
        read_tokens(Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1")) / "eval.parquet")
    )
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(bench.base), folder).eval()

    def ratio(index: int, answer: int) -> float:
        row = {"prompt_ids": tokens[index]["prompt_ids"], "answer": tokens[answer]["completion_ids"]}
        trained = log_probability(model, bench.base, row, "answer", numbers[index])
        with model.disable_adapter():
            return trained - log_probability(model, bench.base, row, "answer", numbers[index])

    ratios, others = [ratio(i, i) for i in range(4)], [ratio(i, (i - 1) % 4) for i in range(4)]
    divergence = max(0.0, sum(others) / 4)
    signs = [1 if good else -1 for good in labels]
    losses = [1 - 1 / (1 + math.exp(-beta * s * (r - divergence))) for s, r in zip(signs, ratios, strict=True)]
    metrics = bench.job.metrics
    assert metrics is not None
    assert metrics.eval_loss == pytest.approx(sum(losses) / 4, rel=1e-3)
    assert metrics.margin == pytest.approx(beta * (sum(ratios[::2]) - sum(ratios[1::2])) / 2, rel=1e-3)
    assert abs(divergence) + abs(metrics.margin or 0) > 1e-2
    assert bench.curve()[0][1] == pytest.approx(0.5, abs=1e-4)  # the model is its own reference


@pytest.mark.parametrize("shape", ["gemma4-moe", "gemma4-unified"])
def test_grpo_samples_and_scores_with_the_pictures_of_each_prompt(
    shape: str, bench_for: BenchOf, tmp_path: Path
) -> None:
    beta, temperature = 0.3, 0.8
    rl = {
        "algorithm": "grpo",
        "num_generations": 4,
        "max_completion_length": 4,
        "rewards": [{"type": "regex", "pattern": "[a-m]"}],
        "beta": beta,
        "temperature": temperature,
    }
    bench = bench_for(shape, method="RL", rl_config=rl, batch_size=16)
    pictures: list[tuple[int, ...]] = [(0,), (), (1, 2), (3,)]
    for split in ("train", "eval"):
        bench.put(split, [{"prompt": prompt(*numbers)} for numbers in pictures])
    bench.run(Step.PREPARE)
    trainer = make_trainer(bench, tmp_path)
    model = trainer.model
    model.train()
    torch.manual_seed(1)
    batch_rows = next(iter(trainer.get_train_dataloader()))
    samples = trainer._generate_and_score_completions(batch_rows)
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    shown = {
        tuple(row["prompt_ids"]) + tuple(row["pictures"]): numbers
        for row, numbers in zip(read_tokens(folder / "train.parquet"), pictures, strict=True)
    }

    def log_probabilities(prompt_ids: list[int], numbers: tuple[int, ...], ids: list[int]) -> torch.Tensor:
        inputs = row_inputs(bench.base, [*prompt_ids, *ids], numbers)
        with torch.no_grad():
            logits = model(**inputs).logits[0, len(prompt_ids) - 1 : -1].double()
        return torch.log_softmax(logits / temperature, -1).gather(1, torch.tensor(ids)[:, None])[:, 0]

    total, count = 0.0, 0
    for row, ids, mask, advantage in zip(
        batch_rows,
        samples["completion_ids"].tolist(),
        samples["completion_mask"].tolist(),
        samples["advantages"].tolist(),
        strict=True,
    ):
        arguments = row["prompt"], shown[tuple(row["prompt"]) + tuple(row["pictures"])], ids[: sum(mask)]
        policy = log_probabilities(*arguments)
        with model.disable_adapter():
            ratio = log_probabilities(*arguments) - policy
        total += float((beta * (torch.exp(ratio) - ratio - 1) - advantage).sum())
        count += sum(mask)
    batch = samples | {"pixel_values": torch.cat(samples["pixel_values"])}
    assert float(trainer.compute_loss(model, batch).detach()) == pytest.approx(total / count, rel=1e-3, abs=1e-5)

    trainer.generation_config.do_sample = False
    greedy = trainer._generate_and_score_completions(batch_rows)
    for row, ids, mask in zip(
        batch_rows, greedy["completion_ids"].tolist(), greedy["completion_mask"].tolist(), strict=True
    ):
        numbers = shown[tuple(row["prompt"]) + tuple(row["pictures"])]
        inputs = row_inputs(bench.base, row["prompt"], numbers)
        alone = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, len(row["prompt"]) :]
        assert ids[: sum(mask)] == alone.tolist()


@pytest.mark.parametrize(
    ("shape", "export"),
    [
        ("gemma4-dense", {"format": "merged", "quantization": "q4"}),
        ("gemma4-unified", {"format": "merged"}),
    ],
)
def test_a_merged_export_answers_as_trained(shape: str, export: dict[str, str], bench_for: BenchOf) -> None:
    from transformers import AutoModelForImageTextToText

    bench = bench_for(shape, **LEARNING, train_vision_tower=shape == "gemma4-unified")
    bench.export = export
    bench.to(Step.EXPORT)
    folder = Path(bench.job.adapter_path or "")
    assert "pipeline_tag: image-text-to-text" in (folder / "README.md").read_text()
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert_compared_with_media(bench)
    assert answers_of(model, bench.base, range(200, 206)) == [right_answer(number) for number in range(200, 206)]


# The module that adapters of a trained vision tower are on, besides the language model.
TOWERS = {"gemma4-e": ".vision_tower.", "gemma4-unified": ".embed_vision."}


@pytest.mark.parametrize("shape", TOWERS)
def test_the_vision_tower_is_adapted_on_request(shape: str, bench_for: BenchOf) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    bench = bench_for(shape, train_vision_tower=True, max_steps=3, learning_rate=1e-3).to(Step.TRAIN)
    trained = {name for name, weight in adapter(bench).items() if ".lora_B." in name and weight.any()}
    assert any(TOWERS[shape] in name for name in trained)
    assert all(TOWERS[shape] in name or ".language_model.layers." in name for name in adapter(bench))
    base = AutoModelForImageTextToText.from_pretrained(bench.base)
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1")
    model = PeftModel.from_pretrained(base, folder).eval()
    metrics = bench.job.metrics
    assert metrics is not None
    loss, _, _ = reference_metrics(bench, model, row_inputs, HELD_OUT)
    assert metrics.eval_loss == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("shape", ["gemma4-e", "gemma4-unified"])
def test_all_weights_but_those_that_hear_are_trained_on_request(shape: str, bench_for: BenchOf) -> None:
    training = {"method": "Full", "train_vision_tower": True, "max_steps": 3, "learning_rate": 1e-3}
    bench = bench_for(shape, **training).to(Step.TRAIN)
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/model/1"))
    before, after = load_file(bench.base / "model.safetensors"), load_file(folder / "model.safetensors")
    assert set(after) == set(before)
    unchanged = {name for name in before if torch.equal(before[name], after[name].to(before[name].dtype))}
    bounds = (".input_min", ".input_max", ".output_min", ".output_max", ".layer_scalar")  # buffers
    hearing = {name for name in before if "audio" in name}
    assert hearing
    assert {name for name in unchanged if not name.endswith(bounds)} == hearing - {
        name for name in hearing if name.endswith(bounds)
    }
