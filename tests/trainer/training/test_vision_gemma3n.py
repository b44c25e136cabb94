"""Rows with pictures for Gemma 3n, and a model with towers on text.

How it trains on pictures is tested with the cells of `tests/trainer/model/test_cells.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image as pillow

from gemtune.families import timm
from gemtune.jobs.status import Step
from tests import rows, tiny_gemma
from tests.conversations import conversation_of
from tests.trainer.conftest import Bench
from tests.trainer.training import media_jobs
from tests.trainer.training.picture_rows import chat, picture, row_inputs
from trainer.base_model.folder_contents import config_of
from trainer.pictures.arrow_file import Picture
from trainer.pictures.tokens import picture_tokens
from trainer.rows.encoded import UNTRAINED, Encoded
from trainer.rows.encoder import Encoder

MISSING = pytest.mark.skipif(not timm.is_installed(), reason="timm and torchvision are not installed: run make timm")


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


@MISSING
@pytest.mark.timm
def test_a_model_with_towers_trains_on_text(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base = tiny_gemma.build(tmp_path / "base", "gemma3n")
    bench = Bench(tmp_path / "home", base, max_steps=3, batch_size=4, learning_rate=1e-2)
    bench.put("train", rows.train_rows(8))
    bench.put("eval", rows.train_rows(3))
    bench.export = {"format": "merged"}
    bench.to(Step.EXPORT)
    metrics = bench.job.metrics
    assert metrics is not None
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1")
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), folder).eval()
    loss, _, _ = media_jobs.reference_metrics(bench, model, row_inputs, [()] * 3)
    assert metrics.eval_loss == pytest.approx(loss, rel=1e-4)
