"""Vision jobs on a tiny Gemma 3n, whose vision tower is timm's.

Losses match full logits that plain transformers and PEFT compute.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as pillow
from safetensors.torch import load_file, save_file

from gemtune.families import timm
from gemtune.jobs.status import Step
from tests import rows, tiny_gemma
from tests.conversations import conversation_of
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_train import adapter, resumes_to_the_bit
from tests.trainer.training import media_jobs
from tests.trainer.training.test_metrics import metrics_of_logits
from tests.trainer.training.test_vision_gemma4 import chat, picture
from trainer.base_model.folder_contents import config_of
from trainer.pictures.arrow_file import Picture
from trainer.pictures.tokens import picture_tokens
from trainer.rows.encoded import UNTRAINED, Encoded
from trainer.rows.encoder import Encoder
from trainer.rows.prepared import read_tokens

MISSING = pytest.mark.skipif(not timm.is_installed(), reason="timm and torchvision are not installed: run make timm")
HELD_OUT = range(100, 104)
# Factors of weights by the ends of their names: pictures of a new model have almost the same embeddings.
SCALES = {".embed_tokens.weight": 8, "embed_vision.embedding_projection.weight": 8}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media_jobs.describe_gemma3n(tmp_path_factory.mktemp("described"))


def test_tokens_are_those_of_transformers_processor(described: Path) -> None:
    from transformers import AutoTokenizer, Gemma3nAudioFeatureExtractor, Gemma3nProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(described)
    processor = Gemma3nProcessor(
        Gemma3nAudioFeatureExtractor(),
        SiglipImageProcessorPil.from_pretrained(described),
        tokenizer,
        chat_template=tokenizer.chat_template,
        image_seq_length=4,
    )
    row = chat(1, 2)
    turns = json.loads(json.dumps(row["messages"]))
    for part, number in zip(turns[0]["content"], (1, 2), strict=False):
        part["image"] = picture(number)
    theirs = processor.apply_chat_template(turns, tokenize=True, return_dict=True, return_tensors="pt")
    conversation = conversation_of(row, with_pictures=True)
    sizes = [Picture(b"", picture(number).size) for number in (1, 2)]
    encoder = Encoder(described, max_length=4096, media=picture_tokens(described, config_of(described)))
    ours = encoder.encode(conversation.with_images(sizes))
    assert isinstance(ours, Encoded)
    assert ours.input_ids == theirs["input_ids"][0].tolist()
    soft = tokenizer.convert_tokens_to_ids("<image_soft_token>")
    assert [int(token == soft) for token in ours.input_ids] == theirs["token_type_ids"][0].tolist()
    trained = [label for label in ours.labels if label != UNTRAINED]
    assert tokenizer.decode(trained) == f"{row['messages'][1]['content']}<end_of_turn>\n"


def test_pixels_are_those_of_transformers_processor(described: Path) -> None:
    import io

    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    from trainer.training.picture_batches import PictureCollator

    content = io.BytesIO()
    picture(3).save(content, "PNG")
    (pixels,) = PictureCollator.of_pictures(described, [content.getvalue()]).pixels([[0]])
    shown = pillow.open(content).convert("RGB")
    theirs = SiglipImageProcessorPil.from_pretrained(described)([shown], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, theirs)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_gemma.build(tmp_path_factory.mktemp("gemma3n") / "base", "gemma3n")
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        scale = [factor for end, factor in SCALES.items() if name.endswith(end)]
        weights[name] *= scale[0] if scale else 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def bench_with(base: Path, tmp_path: Path) -> Callable[..., Bench]:
    """Return a factory of vision jobs."""
    benches: list[Bench] = []

    def make(**training: Any) -> Bench:
        bench = Bench(tmp_path / f"home-{len(benches)}", base, **{"save_steps": 100, "batch_size": 4} | training)
        bench.fields["modality"] = "vision"
        bench.put("train", [*map(chat, range(12)), chat(), chat(1, 2)])
        bench.put("eval", [chat(number) for number in HELD_OUT])
        benches.append(bench)
        return bench

    return make


def logits_of(model: Any, base: Path, input_ids: list[int], number: int | None) -> torch.Tensor:
    """Return the logits of a row with a picture or without, in float64."""
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    inputs = {"input_ids": torch.tensor([input_ids])}
    if number is not None:
        processor = SiglipImageProcessorPil.from_pretrained(base)
        inputs["pixel_values"] = processor([picture(number)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs).logits[0].double()
    return logits


def held_out_loss(bench: Bench, model: Any, numbers: list[int | None]) -> float:
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    shown = zip(read_tokens(folder / "eval.parquet"), numbers, strict=True)
    return metrics_of_logits(
        [(logits_of(model, bench.base, row["input_ids"], number), row["labels"]) for row, number in shown]
    )[0]


@MISSING
@pytest.mark.timm
def test_an_adapter_trains_on_pictures_and_loads_in_plain_peft(bench_with: Callable[..., Bench]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    bench = bench_with(max_steps=6, learning_rate=1e-2).to(Step.TRAIN)
    metrics, numbers = bench.job.metrics, list(HELD_OUT)
    assert metrics is not None
    assert metrics.baseline is not None
    assert metrics.eval_loss is not None
    plain = AutoModelForImageTextToText.from_pretrained(bench.base)
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1")
    model = PeftModel.from_pretrained(plain, folder).eval()
    assert metrics.eval_loss == pytest.approx(held_out_loss(bench, model, [*numbers]), rel=1e-4)
    others: list[int | None] = [number + 1 for number in numbers]
    assert abs(metrics.eval_loss - held_out_loss(bench, model, others)) > 1e-3  # the model reads the pictures
    with model.disable_adapter():
        assert metrics.baseline.eval_loss == pytest.approx(held_out_loss(bench, model, [*numbers]), rel=1e-4)
    assert adapter(bench)
    assert all(".language_model.layers." in name for name in adapter(bench))


@MISSING
@pytest.mark.timm
def test_full_fine_tuning_changes_the_language_model_and_nothing_else(bench_with: Callable[..., Bench]) -> None:
    bench = bench_with(method="Full", max_steps=2, learning_rate=1e-3).to(Step.TRAIN)
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/model/1"))
    before, after = load_file(bench.base / "model.safetensors"), load_file(folder / "model.safetensors")
    assert set(after) == set(before)
    changed = {name for name in before if not torch.equal(before[name], after[name].to(before[name].dtype))}
    assert changed
    assert all(".language_model." in name for name in changed)


@MISSING
@pytest.mark.timm
def test_a_resumed_training_ends_with_the_same_weights(bench_with: Callable[..., Bench]) -> None:
    training = {"lora_dropout": 0.1, "max_steps": 5}
    uninterrupted, interrupted = bench_with(**training), bench_with(**training)
    for bench in (uninterrupted, interrupted):
        bench.run(Step.PREPARE)
    resumes_to_the_bit(uninterrupted, interrupted, stop_at=3)


@MISSING
@pytest.mark.timm
def test_a_model_with_towers_trains_on_text(bench_with: Callable[..., Bench]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    bench = bench_with(max_steps=3, learning_rate=1e-2)
    bench.fields["modality"] = "text"
    bench.put("train", rows.train_rows(8))
    bench.put("eval", rows.train_rows(3))
    bench.export = {"format": "merged"}
    bench.to(Step.EXPORT)
    metrics = bench.job.metrics
    assert metrics is not None
    base = AutoModelForImageTextToText.from_pretrained(bench.base)
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1")
    model = PeftModel.from_pretrained(base, folder).eval()
    assert metrics.eval_loss == pytest.approx(held_out_loss(bench, model, [None] * 3), rel=1e-4)
