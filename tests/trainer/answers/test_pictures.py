"""Prompts with pictures, compared with transformers' own processor."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image as pillow
from transformers import AutoModelForImageTextToText, AutoProcessor

from gemtune.datasets.conversation import Conversation, Image, Text, Turn
from gemtune.errors import StepError
from tests import rows, tiny_gemma
from trainer.answers.answering import Answer, Question, answer
from trainer.answers.in_transformers import Transformers
from trainer.answers.runtime import TransformersFiles

TOKENS = 8
RED, BLUE = rows.picture("red", 1), rows.picture("blue", 2)


def ask(runtime: Transformers, *pictures: bytes) -> Answer:
    content = (*map(Image, pictures), Text(rows.QUESTION))
    question = Question(Conversation((Turn("user", content),)), TOKENS)
    return answer(runtime, question, lambda text, is_thought: None, lambda: False)


def test_a_picture_is_answered_token_by_token_as_by_plain_transformers(tiny_vision: Path) -> None:
    runtime = Transformers(TransformersFiles(tiny_vision, None, tiny_vision, modality="vision"))
    processor = AutoProcessor.from_pretrained(tiny_vision)
    plain = AutoModelForImageTextToText.from_pretrained(tiny_vision, dtype=torch.float32)
    content = [{"type": "image", "image": pillow.open(io.BytesIO(RED))}, {"type": "text", "text": rows.QUESTION}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = plain.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    tokens = output[0][inputs["input_ids"].shape[1] :].tolist()
    answered = ask(runtime, RED)
    assert (answered.prompt_tokens, list(answered.tokens)) == (inputs["input_ids"].shape[1], tokens)
    assert ask(runtime, BLUE, RED).prompt_tokens > answered.prompt_tokens


@pytest.mark.parametrize("shape", ["gemma4-dense", "gemma4-unified"])
def test_gemma_4_reads_pictures_without_torchvision(shape: str, tmp_path: Path) -> None:
    folder = tiny_gemma.build(tmp_path / "tiny", shape)
    runtime = Transformers(TransformersFiles(folder, None, folder, modality="vision"))
    assert ask(runtime, RED).prompt_tokens > ask(runtime).prompt_tokens
    assert len(ask(runtime, RED, BLUE).tokens) > 0


def test_a_model_of_texts_refuses_pictures(tiny: Path) -> None:
    with pytest.raises(StepError) as caught:
        ask(Transformers(TransformersFiles(tiny, None, tiny)), RED)
    assert caught.value.code == "no_pictures"


def test_a_file_that_is_no_picture_is_named(tiny_vision: Path) -> None:
    with pytest.raises(StepError) as caught:
        ask(Transformers(TransformersFiles(tiny_vision, None, tiny_vision, modality="vision")), b"text")
    assert (caught.value.code, "cannot be read as" in caught.value.message) == ("bad_prompt", True)
