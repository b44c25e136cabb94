"""Audio tokens and features, compared with transformers' own processors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gemtune.errors import StepError
from tests import tiny_gemma
from tests.trainer.tones import encoded, samples
from trainer.audio.decoding import MAX_SECONDS, RATE
from trainer.audio.tokens import AudioTokens, audio_tokens
from trainer.base_model.folder_contents import config_of

SHAPES = ("gemma4-e", "gemma4-unified")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    built: dict[str, Path] = {}

    def folder_of(shape: str) -> Path:
        if shape not in built:
            built[shape] = tiny_gemma.build(tmp_path_factory.mktemp("audio") / shape, shape)
        return built[shape]

    return folder_of


def tokens_of(folder: Path) -> AudioTokens:
    return audio_tokens(folder, config_of(folder))


def extractor_of(shape: str, folder: Path) -> Any:
    from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
    from transformers.models.gemma4_unified.feature_extraction_gemma4_unified import (
        Gemma4UnifiedAudioFeatureExtractor,
    )

    kind = Gemma4AudioFeatureExtractor if shape == "gemma4-e" else Gemma4UnifiedAudioFeatureExtractor
    return kind.from_pretrained(folder)


def expansion(shape: str, tokens: AudioTokens, mask: torch.Tensor) -> str:
    """Return what transformers' processor writes for a clip."""
    from transformers.models.gemma4.processing_gemma4 import Gemma4Processor
    from transformers.models.gemma4_unified.processing_gemma4_unified import Gemma4UnifiedProcessor

    kind: Any = Gemma4Processor if shape == "gemma4-e" else Gemma4UnifiedProcessor
    names = SimpleNamespace(boa_token=tokens.begin, audio_token=tokens.soft, eoa_token=tokens.end)
    return str(kind.replace_audio_token(names, {"input_features_mask": [mask]}, 0))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_clip_becomes_as_many_tokens_as_in_the_processor(shape: str, folders: Callable[[str], Path]) -> None:
    folder = folders(shape)
    tokens, extractor = tokens_of(folder), extractor_of(shape, folder)
    lengths = [*range(161, 1500, 53), 640, 641, 1280, 3199, 3200, 3201, RATE, RATE + 1, 77_777, RATE * MAX_SECONDS]
    for length in lengths:
        mask = extractor([np.zeros(length, np.float32)], return_tensors="pt")["input_features_mask"][0]
        assert tokens.text_of(length) == expansion(shape, tokens, mask), length


@pytest.mark.parametrize("shape", SHAPES)
def test_features_of_a_batch_are_those_of_the_processor_to_the_bit(shape: str, folders: Callable[[str], Path]) -> None:
    from trainer.training.audio_batches import AudioCollator

    folder = folders(shape)
    waves = [samples(number, length=length) for number, length in enumerate((3000, 7777, 16_000, 400))]
    collator = AudioCollator.of_clips(folder, [encoded(wave, subtype="FLOAT") for wave in waves])
    ids = torch.tensor([[2, collator.soft_token, collator.soft_token, 9]])
    theirs = extractor_of(shape, folder)(waves, return_tensors="pt")
    for in_rows in ([[0, 1, 2, 3]], [[0], [1], [], [2, 3]]):
        ours = collator.inputs(ids, in_rows)
        assert torch.equal(ours["input_features"], theirs["input_features"])
        assert torch.equal(ours["input_features_mask"], theirs["input_features_mask"])
        assert ours["mm_token_type_ids"].tolist() == [[0, 3, 3, 0]]
    assert set(collator.inputs(ids, [[], []])) == {"mm_token_type_ids"}
    assert not collator.one_row_per_batch


def test_a_clip_that_the_model_cannot_hear_is_refused(folders: Callable[[str], Path]) -> None:
    from gemtune.datasets.refusal import BadRow

    tokens = tokens_of(folders("gemma4-e"))
    with pytest.raises(BadRow, match="too short"):
        tokens.text_of(100)
    with pytest.raises(BadRow, match="longer than the model's processor allows"):
        tokens.text_of(31 * RATE)


@pytest.mark.parametrize(
    ("shape", "changed", "code"),
    [
        ("gemma4-e", {"sampling_rate": 8000}, "processor_not_supported"),
        ("gemma4-e", {"dither": 1e-4}, "processor_not_supported"),
        ("gemma4-e", {"hop_length_ms": 0}, "bad_base_model"),
        ("gemma4-e", {"frame_length_ms": "20"}, "bad_base_model"),
        ("gemma4-e", {"feature_size": 80}, "bad_base_model"),
        ("gemma4-unified", {"audio_samples_per_token": 320}, "bad_base_model"),
        ("gemma4-unified", {"audio_samples_per_token": True}, "bad_base_model"),
        ("gemma4-e", None, "bad_base_model"),
    ],
)
def test_other_processors_are_refused(
    shape: str, changed: dict[str, Any] | None, code: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    for path in folders(shape).glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = tmp_path / "processor_config.json"
    processor = json.loads(file.read_text())
    extractor = processor.pop("feature_extractor")
    file.write_text(
        json.dumps(processor if changed is None else processor | {"feature_extractor": extractor | changed})
    )
    with pytest.raises(StepError) as caught:
        tokens_of(tmp_path)
    assert caught.value.code == code


def test_a_model_that_does_not_hear_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        audio_tokens(tmp_path, {"model_type": "gemma4", "audio_config": None})
    assert (caught.value.code, "does not hear" in caught.value.message) == ("model_without_audio", True)
