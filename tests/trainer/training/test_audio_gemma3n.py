"""Audio jobs on a tiny Gemma 3n.

Its audio tower encodes the end of a clip with what follows it in the batch. So a row is computed as transformers'
processor gives it to the model, alone: losses and gradients are those of plain transformers and PEFT, row by row.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.datasets.refusal import BadRow
from gemtune.errors import StepError
from gemtune.families import timm
from gemtune.jobs.status import Step
from gemtune.request.spec import Spec
from tests.conversations import conversation_of
from tests.tiny_shapes import TOKENS_PER_CLIP
from tests.trainer.steps.test_train import adapter, resumes_to_the_bit
from tests.trainer.tones import chat, encoded, right_answer, samples
from tests.trainer.training import media_jobs
from tests.trainer.training.media_jobs import BenchOf, assert_compared_with_media, reference_metrics
from tests.trainer.training.rl_trainers import prepared_folder, randomize_adapter
from trainer.audio.arrow_file import opened
from trainer.audio.decoding import MAX_SECONDS, RATE, decoded
from trainer.audio.tokens import audio_tokens
from trainer.base_model.folder_contents import config_of
from trainer.rows.encoded import UNTRAINED, Encoded
from trainer.rows.encoder import Encoder

MISSING = pytest.mark.skipif(not timm.is_installed(), reason="timm and torchvision are not installed: run make timm")
HELD_OUT = [*((number,) for number in range(100, 104)), (), (104, 105)]
LEARNING = {"learning_rate": 1e-2, "max_steps": 16, "save_steps": 100, "batch_size": 6}
# Factors of weights by the ends of their names: sounds of a new model have almost the same embeddings.
SCALES = {
    ".embed_tokens.weight": 8,
    "embed_audio.embedding_projection.weight": 8,
    "conv_0.conv.weight": 10,
    "conv_1.conv.weight": 10,
    "input_proj_linear.weight": 10,
}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media_jobs.describe_gemma3n(tmp_path_factory.mktemp("described"))


def processor_of(folder: Path) -> Any:
    """Return transformers' processor, with the image processor of Pillow."""
    from transformers import AutoTokenizer, Gemma3nAudioFeatureExtractor, Gemma3nProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Gemma3nProcessor(
        Gemma3nAudioFeatureExtractor.from_pretrained(folder),
        SiglipImageProcessorPil.from_pretrained(folder),
        tokenizer,
        chat_template=tokenizer.chat_template,
        audio_seq_length=TOKENS_PER_CLIP,
    )


def test_tokens_and_features_are_those_of_transformers_processor(described: Path) -> None:
    from trainer.training.audio_batches import AudioCollator

    row, numbers = chat(1, 2, 3), (1, 2, 3)
    files = [encoded(samples(number)) for number in numbers]
    turns = [{**turn, "content": turn["content"]} for turn in json.loads(json.dumps(row["messages"]))]
    for part, content in zip(turns[0]["content"], files, strict=False):
        part["audio"] = decoded(content)
    processor = processor_of(described)
    theirs = processor.apply_chat_template(turns, tokenize=True, return_dict=True, return_tensors="pt")
    conversation = conversation_of(row, with_audio=True)
    encoder = Encoder(described, max_length=4096, media=audio_tokens(described, config_of(described)))
    ours = encoder.encode(conversation.with_clips([opened(content) for content in files]))
    assert isinstance(ours, Encoded)
    assert ours.input_ids == theirs["input_ids"][0].tolist()
    trained = [label for label in ours.labels if label != UNTRAINED]
    assert processor.tokenizer.decode(trained) == f"{right_answer(3)}<end_of_turn>\n"
    collator = AudioCollator.of_clips(described, files)
    inputs = collator.row_inputs(torch.tensor([ours.input_ids]), range(3))
    assert set(inputs) == {"token_type_ids", "input_features", "input_features_mask"}
    assert torch.equal(inputs["input_features"], theirs["input_features"])
    assert torch.equal(inputs["input_features_mask"], theirs["input_features_mask"].bool())
    assert torch.equal(inputs["token_type_ids"], theirs["token_type_ids"])
    assert collator.one_row_per_batch


@pytest.mark.parametrize(
    ("length", "refusal"),
    [(512, "too short"), (513, None), (5 * RATE, None), (MAX_SECONDS * RATE, "longer than the model's processor")],
)
def test_a_clip_has_the_tokens_that_the_model_takes(described: Path, length: int, refusal: str | None) -> None:
    tokens = audio_tokens(described, config_of(described))
    if refusal is not None:
        with pytest.raises(BadRow, match=refusal):
            tokens.text_of(length)
        return
    assert tokens.text_of(length).count(tokens.soft) == TOKENS_PER_CLIP


def test_a_processor_that_differs_from_its_model_is_refused(described: Path) -> None:
    config = config_of(described) | {"audio_soft_tokens_per_image": TOKENS_PER_CLIP + 1}
    with pytest.raises(StepError, match="33 tokens per audio clip, the processor has 32"):
        audio_tokens(described, config)


def test_a_real_model_has_188_tokens_for_every_clip(described: Path, tmp_path: Path) -> None:
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((described / name).read_bytes())
    config = {"model_type": "gemma3n", "audio_config": {}}
    tokens = audio_tokens(tmp_path, config)
    assert (tokens.rate.tokens(RATE), tokens.rate.tokens(MAX_SECONDS * RATE), tokens.soft_id) == (188, 188, 262_273)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return media_jobs.scaled_models(tmp_path_factory.mktemp("audio"), SCALES)


@pytest.fixture
def bench_for(tmp_path: Path, folders: Callable[[str], Path]) -> BenchOf:
    return media_jobs.media_benches(tmp_path, folders, "audio", chat, HELD_OUT)


def reference_inputs(base: Path, input_ids: list[int], numbers: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Return the model inputs of one row, by transformers' extractor."""
    from transformers import AutoFeatureExtractor

    inputs = {"input_ids": torch.tensor([input_ids])}
    if not numbers:
        return inputs
    extractor: Any = AutoFeatureExtractor.from_pretrained(base)
    waves = [decoded(encoded(samples(number))) for number in numbers]
    return inputs | dict(extractor(waves, return_tensors="pt"))


@MISSING
@pytest.mark.timm
def test_an_adapter_trains_on_tones_and_loads_in_plain_peft(bench_for: BenchOf) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    bench = bench_for("gemma3n", **LEARNING).to(Step.EXPORT)
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
    swapped = [*((number + 1,) for number in range(100, 104)), (), (105, 104)]
    assert reference_metrics(bench, model, reference_inputs, swapped)[0] > loss + 1e-3  # the model hears
    with model.disable_adapter():
        assert metrics.baseline.eval_loss == pytest.approx(
            reference_metrics(bench, model, reference_inputs, HELD_OUT)[0], rel=1e-4
        )
    assert adapter(bench)
    assert all(".language_model.layers." in name for name in adapter(bench))
    merged = {n.replace("base_model.model.", "").replace(".base_layer", ""): w for n, w in model.named_parameters()}
    assert all(torch.equal(weight, merged[name]) for name, weight in before.items())


@MISSING
@pytest.mark.timm
def test_loss_and_gradients_of_rows_are_those_of_the_libraries(bench_for: BenchOf) -> None:
    from trainer.model.engines import huggingface
    from trainer.model.hidden_states import head_inputs
    from trainer.model.loss_head import cross_entropy_sum
    from trainer.training.audio_batches import AudioCollator
    from trainer.training.batches import TokenRows

    bench = bench_for("gemma3n", lora_dropout=0.0)
    bench.run(Step.PREPARE)
    spec = Spec.model_validate_json(bench.services.buckets.config.read(bench.job.spec_name))
    folder, ours = prepared_folder(bench), randomize_adapter(huggingface.load(bench.base, spec).model)
    items, collator = TokenRows(folder / "eval.parquet"), AudioCollator.from_folders(bench.base, folder)
    loss = torch.zeros(())
    for index in range(len(items)):
        states = head_inputs(ours, collator.collate([items[index]]), torch.float32)
        loss = loss + cross_entropy_sum(states.hidden, states.head, states.targets, soft_cap=states.soft_cap)
    loss.backward()
    media_jobs.assert_as_plain_peft(bench, ours, loss, reference_inputs, HELD_OUT)


@MISSING
@pytest.mark.timm
def test_transformers_hears_the_end_of_a_clip_in_a_batch_differently(folders: Callable[[str], Path]) -> None:
    """Check why rows are computed one by one.

    If this one fails, transformers has learned to: drop `AudioFormat.depends_on_batch`.
    """
    from transformers import AutoFeatureExtractor, AutoModelForImageTextToText

    model: Any = AutoModelForImageTextToText.from_pretrained(folders("gemma3n")).eval()
    extractor: Any = AutoFeatureExtractor.from_pretrained(folders("gemma3n"))
    short, long = samples(0, length=16_000), samples(1, length=32_000)

    def heard(*waves: Any) -> torch.Tensor:
        inputs = extractor(list(waves), return_tensors="pt")
        with torch.no_grad():
            features = model.model.get_audio_features(
                inputs["input_features"], ~inputs["input_features_mask"].bool(), return_dict=True
            )
        first: torch.Tensor = features.pooler_output[0]
        return first

    alone = heard(short)
    difference = (heard(short, long)[: len(alone)] - alone).abs().amax(dim=1)
    assert float(difference[:-1].max()) < 1e-4
    assert float(difference[-1]) > 0.05


@MISSING
@pytest.mark.timm
def test_full_fine_tuning_changes_the_language_model_and_nothing_else(bench_for: BenchOf) -> None:
    bench = bench_for("gemma3n", method="Full", learning_rate=1e-3, max_steps=2, batch_size=2).to(Step.TRAIN)
    media_jobs.assert_only_language_model_changed(bench)


@MISSING
@pytest.mark.timm
@pytest.mark.parametrize("method", ["LoRA", "QLoRA"])
def test_a_resumed_training_ends_with_the_same_weights(method: str, bench_for: BenchOf) -> None:
    training = {"lora_dropout": 0.1, "batch_size": 3, "max_steps": 5, "method": method}
    uninterrupted, interrupted = bench_for("gemma3n", **training), bench_for("gemma3n", **training)
    for bench in (uninterrupted, interrupted):
        bench.put("train", [*(chat(number) for number in range(8)), chat(), chat(8, 9)])
        bench.run(Step.PREPARE)
    resumes_to_the_bit(uninterrupted, interrupted, stop_at=3)


@MISSING
@pytest.mark.timm
def test_a_merged_export_answers_as_trained_and_its_readme_runs(
    bench_for: BenchOf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForImageTextToText

    bench = bench_for("gemma3n", **LEARNING)
    bench.export = {"format": "merged"}
    bench.to(Step.EXPORT)
    model = AutoModelForImageTextToText.from_pretrained(bench.job.adapter_path)
    assert_compared_with_media(bench)
    metrics = bench.job.metrics
    assert metrics is not None
    assert metrics.eval_loss == pytest.approx(reference_metrics(bench, model, reference_inputs, HELD_OUT)[0], rel=2e-2)
    assert media_jobs.run_readme_on_speech(bench, 202, monkeypatch, capsys) == right_answer(202)
