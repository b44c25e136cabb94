"""Audio tokens: how a base model represents an audio clip in its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gemtune import families
from gemtune.datasets.conversation import Conversation
from gemtune.datasets.refusal import BadRow
from gemtune.errors import StepError
from gemtune.request import base_model
from trainer.audio.decoding import RATE
from trainer.conversation.chat_template import json_object
from trainer.media.sources import CLIP
from trainer.media.token_text import MOST_IDS, MediaTokens, checked_number, named_token

# Defaults of Gemma4Processor, Gemma4AudioFeatureExtractor, and the unified models' extractor.
DEFAULT_MOST_TOKENS = 750
DEFAULT_FRAME_MS, DEFAULT_HOP_MS, DEFAULT_SAMPLES, DEFAULT_BINS = 20.0, 10.0, 640, 128
# Two convolutions of the audio tower with a stride of 2.
FRAMES_PER_TOKEN = 4
# Gemma3nAudioFeatureExtractor: the default length of a frame, and the samples to whose multiple a clip is filled up.
# Its tower has two such convolutions, too, and keeps every fourth of their outputs.
DEFAULT_FRAME_MS_OF_3N, FILLED_UP_TO, FRAMES_PER_TOKEN_OF_3N = 32.0, 128, 16
# A configuration that says more would make rows of any length.
MOST_TOKENS, MOST_MS, MOST_SAMPLES = 8_192, 1_000, 16_000
HINT = "use the processor that came with the model"


class TokenRate(Protocol):
    """Relation between samples and soft tokens."""

    def tokens(self, samples: int) -> int:
        """Return the number of soft tokens of a clip with so many samples."""
        ...


@dataclass(frozen=True, slots=True)
class MelFrames:
    """Rate of a model with an audio tower, which reads a mel spectrogram.

    frame, hop: samples per frame and from frame to frame. The arithmetic is that of transformers'
    Gemma4AudioFeatureExtractor, which puts half a frame of zeros in front and takes one more sample per frame, and of
    Gemma4Processor: a frame that is not whole is not read.
    """

    frame: int
    hop: int

    def tokens(self, samples: int) -> int:
        whole_frames = max(0, (samples + self.frame // 2 - self.frame - 1) // self.hop + 1)
        return -(-whole_frames // FRAMES_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class RawSamples:
    """Rate of a model that reads the samples themselves."""

    per_token: int

    def tokens(self, samples: int) -> int:
        return -(-samples // self.per_token)


@dataclass(frozen=True, slots=True)
class FixedTokens:
    """Rate of a model with as many soft tokens for every clip: Gemma 3n.

    count: of them. frame, hop: as in MelFrames. The arithmetic is that of transformers' Gemma3nAudioFeatureExtractor,
    and of the model, which fills up what it hears to `count`.
    """

    count: int
    frame: int
    hop: int

    def tokens(self, samples: int) -> int:
        filled_up = -(-samples // FILLED_UP_TO) * FILLED_UP_TO
        frames = max(0, (filled_up - self.frame - 1) // self.hop + 1)
        heard = -(-frames // FRAMES_PER_TOKEN_OF_3N)
        return max(heard, self.count) if heard else 0


@dataclass(frozen=True, slots=True)
class AudioTokens(MediaTokens):
    """Tokens that stand for an audio clip.

    around: text that the processor adds before and after them. rate: how many soft tokens a clip becomes. most_tokens:
    the most that it may become.
    """

    around: str
    rate: TokenRate
    most_tokens: int

    def media_in(self, conversation: Conversation) -> Sequence[int]:
        """Return the samples of a conversation's opened clips, in order."""
        return [clip.samples for clip in conversation.clips()]

    def text_of(self, samples: int) -> str:
        """Return the tokens of a clip with so many samples. Raises BadRow."""
        count = self.rate.tokens(samples)
        if not count:
            raise BadRow(f"an audio clip of {samples} samples is too short for the model to hear")
        if count > self.most_tokens:
            raise BadRow(f"an audio clip of {samples / RATE:.1f} seconds is longer than the model's processor allows")
        return f"{self.around}{self.begin}{self.soft * count}{self.end}{self.around}"


def audio_tokens(folder: Path, config: Mapping[str, Any]) -> AudioTokens:
    """Return the audio tokens of the model in a folder.

    config: its config.json. Raises StepError `model_without_audio`, `bad_base_model`, `processor_not_supported`.
    """
    reason, family_and_type = base_model.why_no_media("audio", config), families.of_config(config)
    if reason is not None or family_and_type is None:
        code, message, hint = base_model.media_refusal("audio", reason)
        raise StepError(code, message, hint=hint)
    tokenizer, processor = json_object(folder / "tokenizer_config.json"), json_object(folder / "processor_config.json")
    extractor = _extractor(folder, processor)
    family, kind = family_and_type
    soft, most_tokens = named_token(tokenizer, "audio_token"), family.audio.fixed_tokens or DEFAULT_MOST_TOKENS
    most_tokens = checked_number("audio_seq_length", processor.get("audio_seq_length", most_tokens), MOST_TOKENS)
    rate: TokenRate
    if family.audio.fixed_tokens is not None:
        rate = _fixed_tokens(extractor, config, most_tokens, family.audio.fixed_tokens)
    else:
        rate = _raw_samples(extractor, config) if kind.encoder_free else _mel_frames(extractor, config)
    return AudioTokens(
        noun=CLIP,
        written=soft,
        begin=named_token(tokenizer, "boa_token"),
        soft=soft,
        soft_id=checked_number(
            "the id of an audio token", config.get("audio_token_id", family.audio.soft_id), MOST_IDS
        ),
        end=named_token(tokenizer, "eoa_token"),
        around=family.audio.around,
        rate=rate,
        most_tokens=most_tokens,
    )


def _extractor(folder: Path, processor: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration of a model's audio feature extractor.

    Raises StepError `bad_base_model`, `processor_not_supported`.
    """
    extractor = processor.get("feature_extractor")
    if not isinstance(extractor, dict):
        extractor = json_object(folder / "preprocessor_config.json")
        if "feature_extractor_type" not in extractor:
            message = "the base model has no configuration of an audio feature extractor"
            hint = "it needs processor_config.json with a feature_extractor"
            raise StepError("bad_base_model", message, hint=hint)
    if extractor.get("sampling_rate", RATE) != RATE:
        message = f"the base model's processor does not read {RATE} samples per second"
        raise StepError("processor_not_supported", message, hint=HINT)
    if extractor.get("dither", 0.0) != 0:
        message = "the base model's processor adds noise to audio, which no training could repeat"
        raise StepError("processor_not_supported", message, hint="set dither to 0 in its processor_config.json")
    return extractor


def _fixed_tokens(extractor: Mapping[str, Any], config: Mapping[str, Any], count: int, default: int) -> FixedTokens:
    """Return the rate of a processor that writes `count` tokens for each clip.

    Raises StepError `bad_base_model` if its model reads another number.
    """
    if (of_model := config.get("audio_soft_tokens_per_image", default)) != count:
        message = f"config.json has {of_model} tokens per audio clip, the processor has {count}"
        raise StepError("bad_base_model", message, hint=HINT)
    return FixedTokens(count, *_frame_and_hop(extractor, DEFAULT_FRAME_MS_OF_3N))


def _frame_and_hop(extractor: Mapping[str, Any], frame_ms: float = DEFAULT_FRAME_MS) -> tuple[int, int]:
    """Return the samples per frame, and from frame to frame, of a processor.

    frame_ms: the default of its frames. Raises StepError `bad_base_model`.
    """
    lengths = []
    for name, default in (("frame_length_ms", frame_ms), ("hop_length_ms", DEFAULT_HOP_MS)):
        value = extractor.get(name, default)
        if type(value) not in (int, float) or not 1 <= value <= MOST_MS:
            message = f"{name} is {value!r}: expected a number from 1 to {MOST_MS}"
            raise StepError("bad_base_model", message, hint=HINT)
        lengths.append(round(RATE * value / 1000))
    frame, hop = lengths
    return frame, hop


def _mel_frames(extractor: Mapping[str, Any], config: Mapping[str, Any]) -> MelFrames:
    """Return the rate of a processor that writes mel spectrograms.

    Raises StepError `bad_base_model` if its model reads others. transformers divides the channels of the first
    convolution where the bins are meant.
    """
    bins = checked_number("feature_size", extractor.get("feature_size", DEFAULT_BINS), MOST_SAMPLES)
    channels = config["audio_config"].get("subsampling_conv_channels", [DEFAULT_BINS])[0]
    if channels // FRAMES_PER_TOKEN != -(-bins // FRAMES_PER_TOKEN):
        message = f"config.json has subsampling_conv_channels for {channels} mel bins, the processor has {bins}"
        raise StepError("bad_base_model", message, hint=HINT)
    return MelFrames(*_frame_and_hop(extractor))


def _raw_samples(extractor: Mapping[str, Any], config: Mapping[str, Any]) -> RawSamples:
    """Return the rate of a unified model's processor.

    Raises StepError `bad_base_model` if its model reads other numbers of samples.
    """
    name = "audio_samples_per_token"
    count = checked_number(name, extractor.get(name, DEFAULT_SAMPLES), MOST_SAMPLES)
    if (of_model := config["audio_config"].get("audio_embed_dim", DEFAULT_SAMPLES)) != count:
        message = f"config.json has audio_embed_dim {of_model}, the processor has {name} {count}"
        raise StepError("bad_base_model", message, hint=HINT)
    return RawSamples(count)
