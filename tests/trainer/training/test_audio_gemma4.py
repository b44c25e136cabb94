"""Audio jobs on tiny models of Gemma 4.

Their clips have different lengths. Losses and metrics match a reference computation from full logits, row by row, with
the inputs of transformers' own feature extractor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.jobs.status import Step
from gemtune.request.spec import Spec
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_train import adapter, resumes_to_the_bit
from tests.trainer.tones import chat, encoded, right_answer, samples
from tests.trainer.training import media_jobs
from tests.trainer.training.media_jobs import BenchOf, assert_compared_with_media, reference_metrics
from tests.trainer.training.rl_trainers import prepared_folder, randomize_adapter
from trainer.audio.decoding import decoded
from trainer.rows.prepared import read_tokens

SHAPES = ("gemma4-e", "gemma4-unified")
HELD_OUT = [*((number,) for number in range(100, 104)), (), (104, 105)]
LEARNING = {"learning_rate": 5e-3, "max_steps": 24, "save_steps": 100, "batch_size": 8}
# Factors of weights by the ends of their names.
SCALES = {
    ".embed_tokens.weight": 8,
    "embedding_projection.weight": 8,
    "layer0.conv.weight": 10,
    "layer1.conv.weight": 10,
    "input_proj_linear.weight": 10,
    "audio_tower.output_proj.weight": 10,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return media_jobs.scaled_models(tmp_path_factory.mktemp("audio"), SCALES)


@pytest.fixture
def bench_for(tmp_path: Path, folders: Callable[[str], Path]) -> BenchOf:
    return media_jobs.media_benches(tmp_path, folders, "audio", chat, HELD_OUT)


def reference_inputs(base: Path, input_ids: list[int], numbers: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Return the model inputs of one row, by transformers' extractor."""
    from transformers import AutoConfig, AutoFeatureExtractor

    ids, config = torch.tensor([input_ids]), AutoConfig.from_pretrained(base)
    inputs = {"input_ids": ids, "mm_token_type_ids": 3 * (ids == config.audio_token_id).long()}
    if not numbers:
        return inputs
    extractor: Any = AutoFeatureExtractor.from_pretrained(base)
    waves = [decoded(encoded(samples(number))) for number in numbers]
    return inputs | dict(extractor(waves, return_tensors="pt"))


def answers_of(bench: Bench, model: Any, numbers: range) -> list[str]:
    """Return the greedy answers about tones that were in no row."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bench.base)
    row = next(iter(read_tokens(prepared_folder(bench) / "eval.parquet")))
    length = next(index for index, label in enumerate(row["labels"]) if label != -100)
    answers = []
    for number in numbers:
        # Held-out tone 100 is as long as these, so that its prompt is theirs.
        inputs = reference_inputs(bench.base, row["input_ids"][:length], (number,))
        completion = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, length:]
        answers.append(tokenizer.decode(completion, skip_special_tokens=True).strip())
    return answers


@pytest.mark.parametrize("shape", SHAPES)
def test_an_adapter_learns_tones_without_changing_what_hears(shape: str, bench_for: BenchOf) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    bench = bench_for(shape, **LEARNING).to(Step.EXPORT)
    metrics = bench.job.metrics
    assert metrics is not None
    assert metrics.baseline is not None
    base = AutoModelForImageTextToText.from_pretrained(bench.base)
    before = {name: weight.clone() for name, weight in base.named_parameters()}
    model = PeftModel.from_pretrained(base, bench.job.adapter_path).eval()
    loss, accuracy, perplexity = reference_metrics(bench, model, reference_inputs, HELD_OUT)
    assert metrics.eval_loss == pytest.approx(loss, rel=1e-4)
    assert metrics.accuracy == pytest.approx(accuracy, abs=1e-9)
    assert_compared_with_media(bench, perplexity)
    with model.disable_adapter():
        assert metrics.baseline.eval_loss == pytest.approx(
            reference_metrics(bench, model, reference_inputs, HELD_OUT)[0], rel=1e-4
        )
    heard = range(202, 214, 3)
    assert answers_of(bench, model, heard) == [right_answer(number) for number in heard]
    adapted = set(adapter(bench))
    assert adapted
    assert all(".language_model.layers." in name for name in adapted)
    merged = {n.replace("base_model.model.", "").replace(".base_layer", ""): w for n, w in model.named_parameters()}
    assert all(torch.equal(weight, merged[name]) for name, weight in before.items())


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_of_a_batch_are_those_of_the_libraries(shape: str, bench_for: BenchOf) -> None:
    from trainer.model.engines import huggingface
    from trainer.model.hidden_states import head_inputs
    from trainer.model.loss_head import cross_entropy_sum
    from trainer.training.audio_batches import AudioCollator
    from trainer.training.batches import TokenRows

    bench = bench_for(shape, lora_dropout=0.0)
    bench.run(Step.PREPARE)
    spec = Spec.model_validate_json(bench.services.buckets.config.read(bench.job.spec_name))
    folder, ours = prepared_folder(bench), randomize_adapter(huggingface.load(bench.base, spec).model)
    items = TokenRows(folder / "eval.parquet")
    batch = AudioCollator.from_folders(bench.base, folder).collate([items[index] for index in range(len(items))])
    assert not ((batch["shift_labels"] != -100) & (batch["mm_token_type_ids"] == 3)).any()
    states = head_inputs(ours, batch, torch.float32)
    loss = cross_entropy_sum(states.hidden, states.head, states.targets, soft_cap=states.soft_cap)
    loss.backward()
    media_jobs.assert_as_plain_peft(bench, ours, loss, reference_inputs, HELD_OUT)


def test_leaving_out_the_clip_changes_the_loss(bench_for: BenchOf) -> None:
    """Check that the tests of losses notice when a model does not hear."""
    from transformers import AutoModelForImageTextToText

    bench = bench_for("gemma4-e")
    bench.run(Step.PREPARE)
    row = next(iter(read_tokens(prepared_folder(bench) / "eval.parquet")))
    model = AutoModelForImageTextToText.from_pretrained(bench.base).eval()
    with torch.no_grad():
        low, high = (model(**reference_inputs(bench.base, row["input_ids"], (number,))).logits for number in (100, 103))
    assert float((low - high).abs().max()) > 0.05


def test_full_fine_tuning_changes_the_language_model_and_nothing_else(bench_for: BenchOf) -> None:
    bench = bench_for("gemma4-e", method="Full", learning_rate=1e-3, max_steps=2, batch_size=4).to(Step.TRAIN)
    media_jobs.assert_only_language_model_changed(bench)


@pytest.mark.parametrize(("shape", "method"), [("gemma4-e", "QLoRA"), ("gemma4-unified", "LoRA")])
def test_a_resumed_training_ends_with_the_same_weights(shape: str, method: str, bench_for: BenchOf) -> None:
    training = {"lora_dropout": 0.1, "batch_size": 3, "max_steps": 6, "method": method}
    uninterrupted, interrupted = bench_for(shape, **training), bench_for(shape, **training)
    for bench in (uninterrupted, interrupted):
        bench.put("train", [*(chat(number) for number in range(8)), chat(), chat(8, 9)])
        bench.run(Step.PREPARE)
    resumes_to_the_bit(uninterrupted, interrupted, stop_at=4)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_merged_export_answers_as_trained_and_as_its_readme_shows(
    shape: str, bench_for: BenchOf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForImageTextToText

    bench = bench_for(shape, **LEARNING)
    bench.export = {"format": "merged"}
    bench.to(Step.EXPORT)
    model = AutoModelForImageTextToText.from_pretrained(bench.job.adapter_path)
    assert_compared_with_media(bench)
    metrics = bench.job.metrics
    assert metrics is not None
    assert metrics.eval_loss == pytest.approx(reference_metrics(bench, model, reference_inputs, HELD_OUT)[0], rel=5e-2)
    heard = range(202, 208, 3)
    assert answers_of(bench, model, heard) == [right_answer(number) for number in heard]
    assert media_jobs.run_readme_on_speech(bench, 202, monkeypatch, capsys) == right_answer(202)
