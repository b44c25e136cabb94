"""Prompts with audio, compared with transformers' own extractor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.datasets.conversation import Audio, Conversation, Text, Turn
from gemtune.errors import StepError
from tests import tiny_gemma
from tests.trainer.tones import QUESTION, encoded, prompt, samples
from tests.trainer.training.test_audio_gemma4 import reference_inputs
from trainer.answers import rows
from trainer.answers.answering import Answer, Question, answer
from trainer.answers.in_transformers import Transformers
from trainer.answers.runtime import TransformersFiles

TOKENS = 8
# Least lead of the most likely token over the next one: rounding, which differs between processors, decides below it.
LEADS = {torch.float32: 1e-5, torch.bfloat16: 0.01}


def ask(runtime: Transformers, *clips: bytes) -> Answer:
    content = (*map(Audio, clips), Text(QUESTION))
    question = Question(Conversation((Turn("user", content),)), TOKENS)
    return answer(runtime, question, lambda text, is_thought: None, lambda: False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", ["gemma4-e", "gemma4-unified"])
def test_audio_is_answered_token_by_token_as_by_plain_transformers(
    shape: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    from transformers import AutoModelForImageTextToText

    folder = tiny_gemma.build(tmp_path / "tiny", shape)
    plain: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    plain.save_pretrained(folder)
    runtime = Transformers(TransformersFiles(folder, None, folder, modality="audio"))
    clip = encoded(samples(1))
    tokens = runtime.prompt(Conversation((Turn("user", (Audio(clip), Text(QUESTION))),))).tokens
    inputs = reference_inputs(folder, list(tokens), (1,))
    output = plain.generate(
        **inputs, max_new_tokens=TOKENS, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    leads = [float(-logits[0].float().topk(2).values.diff()) for logits in output.logits]
    decided = next((number for number, lead in enumerate(leads) if lead < LEADS[dtype]), TOKENS)
    answered = ask(runtime, clip)
    assert answered.prompt_tokens == len(tokens)
    assert decided > 2
    assert list(answered.tokens)[:decided] == output.sequences[0][len(tokens) :].tolist()[:decided]
    assert ask(runtime, clip, clip).prompt_tokens > answered.prompt_tokens > ask(runtime).prompt_tokens


def test_a_model_of_texts_refuses_audio(tiny: Path) -> None:
    with pytest.raises(StepError) as caught:
        ask(Transformers(TransformersFiles(tiny, None, tiny)), encoded(samples(1)))
    assert caught.value.code == "no_audio"


def test_a_file_that_is_no_audio_is_named(tmp_path: Path) -> None:
    folder = tiny_gemma.build(tmp_path / "tiny", "gemma4-e")
    with pytest.raises(StepError) as caught:
        ask(Transformers(TransformersFiles(folder, None, folder, modality="audio")), b"text")
    assert (caught.value.code, "is not WAV" in caught.value.message) == ("bad_prompt", True)


def test_rows_name_clips_beside_their_file(tmp_path: Path) -> None:
    clip = encoded(samples(2))
    (tmp_path / "a.wav").write_bytes(clip)
    turns = [{"role": "user", "content": f"<audio>{QUESTION}"}, {"role": "assistant", "content": "Low."}]
    lines = [{"messages": turns, "audio": "a.wav"}, {"messages": turns, "audio": "b.wav"}, {"messages": prompt(2)}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = list(rows.read(tmp_path / "rows.jsonl"))
    assert read[0].conversation is not None
    assert (read[0].conversation.clips(), read[0].text, read[0].expected) == ([clip], QUESTION, "Low.")
    assert "has no audio clip 'b.wav'" in str(read[1].refusal)
