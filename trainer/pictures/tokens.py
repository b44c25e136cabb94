"""Picture tokens: how a base model represents a picture in its text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from gemtune.request import base_model
from trainer.conversation.chat_template import json_object
from trainer.conversation.messages import Messages, pictures_in

# Soft tokens per picture: the default of Gemma3Processor's image_seq_length.
DEFAULT_COUNT = 256
# Id of the soft token: the default of Gemma3Config's image_token_id.
DEFAULT_SOFT_ID = 262_144
# A configuration that says more would make rows of any length: released models have 256 tokens per picture, fewer than
# 300,000 tokens, and 896 pixels per side.
MOST_TOKENS, MOST_IDS, MOST_PIXELS = 8_192, 2**31 - 1, 8_192
# PIL.Image.Resampling.BILINEAR, as preprocessor_config.json writes it.
BILINEAR = 2


@dataclass(frozen=True, slots=True)
class PictureTokens:
    """Tokens that stand for a picture: begin, `count` times soft, end.

    begin: the token that the chat template writes for a picture. soft: the token whose embeddings the model replaces
    with the vision tower's output; soft_id: its id in the model's config.json. size: (width, height) to which the
    processor resizes pictures; None if that depends on the picture.
    """

    begin: str
    soft: str
    soft_id: int
    end: str
    count: int
    size: tuple[int, int] | None

    def expanded(self, text: str) -> str:
        """Expand each picture to its tokens, as transformers' Gemma3Processor."""
        return text.replace(self.begin, f"\n\n{self.begin}{self.soft * self.count}{self.end}\n\n")

    def shortened(self, text: str) -> str:
        """Shorten the soft tokens of each picture, for people to read."""
        return text.replace(self.soft * self.count, f"{self.soft}…")

    def problem_of(self, messages: Messages, text: str, remaining: str) -> str | None:
        """Return why the pictures of a row cannot be used, or None.

        text: the row, rendered and expanded. remaining: the part of it that is left after truncation. Raises StepError
        `template_not_supported`.
        """
        shown, written = len(pictures_in(messages)), text.count(self.begin)
        if written < shown:
            problem = f"the base model's chat template writes {written} pictures where a row has {shown}"
            raise StepError("template_not_supported", problem, hint="use a base model with Gemma's template")
        if (written, text.count(self.soft), text.count(self.end)) != (shown, shown * self.count, shown):
            return f"its text contains {self.begin}, {self.soft} or {self.end}, which stand for a picture"
        return None if self._whole_in(remaining) == shown else "its pictures are beyond max_seq_length"

    def _whole_in(self, text: str) -> int:
        return text.count(f"{self.begin}{self.soft * self.count}{self.end}")


def picture_tokens(folder: Path, config: Mapping[str, Any]) -> PictureTokens:
    """Return the picture tokens of the vision model in a folder.

    config: its config.json. Raises StepError `model_without_vision`, `bad_base_model`, `processor_not_supported`.
    """
    _check_sees(config)
    tokenizer, processor = json_object(folder / "tokenizer_config.json"), json_object(folder / "processor_config.json")
    nested = processor.get("image_processor")
    pictures = nested if isinstance(nested, dict) else json_object(folder / "preprocessor_config.json")
    if not pictures:
        hint = "it needs preprocessor_config.json, or processor_config.json with an image_processor"
        raise StepError("bad_base_model", "the base model has no configuration of an image processor", hint=hint)
    if processor.get("do_pan_and_scan") or pictures.get("do_pan_and_scan"):
        hint = "set do_pan_and_scan to false in its preprocessor_config.json"
        raise StepError("processor_not_supported", "the base model cuts pictures into parts (pan and scan)", hint=hint)
    begin, soft, end = (_token(tokenizer, name) for name in ("boi_token", "image_token", "eoi_token"))
    soft_id = config.get("image_token_index", config.get("image_token_id", DEFAULT_SOFT_ID))  # both have been in use
    count = processor.get("image_seq_length", DEFAULT_COUNT)
    count_of_model = config.get("mm_tokens_per_image", DEFAULT_COUNT)
    if count != count_of_model:
        message = f"config.json has {count_of_model} tokens per picture, processor_config.json has {count}"
        raise StepError("bad_base_model", message, hint="use the processor that came with the model")
    for name, value, most in (
        ("tokens per picture", count, MOST_TOKENS),
        ("the id of a picture token", soft_id, MOST_IDS),
    ):
        if type(value) is not int or not 1 <= value <= most:
            message = f"{name} is {value!r}: expected a whole number from 1 to {most}"
            raise StepError("bad_base_model", message, hint="use the configuration that came with the model")
    return PictureTokens(begin, soft, soft_id, end, count, _size(pictures))


def _check_sees(config: Mapping[str, Any]) -> None:
    reason = base_model.why_no_pictures(config)
    if reason is not None:
        message = f"the base model cannot be trained on pictures: {reason}"
        raise StepError("model_without_vision", message, hint="use gemma-3-4b-it or larger, or modality text")


def _token(tokenizer: Mapping[str, Any], name: str) -> str:
    token = tokenizer.get(name)
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str) or not text:
        raise StepError("bad_base_model", f"the base model's tokenizer_config.json names no {name}")
    return text


def _size(pictures: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the processor's (width, height) if it only resizes bilinearly."""
    size = pictures.get("size")
    plain = pictures.get("do_resize", True) and pictures.get("resample", BILINEAR) in (BILINEAR, None)
    if not plain or pictures.get("do_center_crop") or not isinstance(size, dict):
        return None
    width, height = size.get("width"), size.get("height")
    for side in (width, height):
        if side is not None and (type(side) is not int or not 1 <= side <= MOST_PIXELS):
            message = f"the processor resizes pictures to {width!r} by {height!r}: a side has 1 to {MOST_PIXELS}"
            raise StepError("bad_base_model", message, hint="use the processor that came with the model")
    return None if width is None or height is None else (width, height)
