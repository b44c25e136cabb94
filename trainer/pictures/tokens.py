"""How a base model writes a picture into its text. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from gemtune.request import base_model
from trainer.conversation.chat_template import json_object
from trainer.conversation.messages import Messages, pictures_in

# What Gemma3Processor takes when a model does not say.
DEFAULT_COUNT = 256
# What Gemma3Config takes for the id of the soft token.
DEFAULT_SOFT_ID = 262_144
BILINEAR = 2


@dataclass(frozen=True, slots=True)
class PictureTokens:
    """begin: what the chat template writes for a picture. soft: the token in whose place the model puts what it sees,
    `count` times; soft_id: its id, as the model says. size: width and height of what it sees; None when the processor
    decides by the picture."""

    begin: str
    soft: str
    soft_id: int
    end: str
    count: int
    size: tuple[int, int] | None

    def expanded(self, text: str) -> str:
        """As in transformers' Gemma3Processor."""
        return text.replace(self.begin, f"\n\n{self.begin}{self.soft * self.count}{self.end}\n\n")

    def shortened(self, text: str) -> str:
        """For people who read it."""
        return text.replace(self.soft * self.count, f"{self.soft}…")

    def problem_of(self, messages: Messages, text: str, read: str) -> str | None:
        """What is wrong with the pictures of a row. text: all of it, expanded. read: what is left of it when it is cut.

        Raises StepError `template_not_supported`.
        """
        shown, written = len(pictures_in(messages)), text.count(self.begin)
        if written < shown:
            problem = f"its chat template writes {written} pictures where a row has {shown}"
            raise StepError("template_not_supported", problem, hint="use a base model with Gemma's template")
        if (written, text.count(self.soft), text.count(self.end)) != (shown, shown * self.count, shown):
            return f"its text holds {self.begin}, {self.soft} or {self.end}, which stand for a picture"
        return None if self._whole_in(read) == shown else "its pictures lie beyond max_seq_length"

    def _whole_in(self, text: str) -> int:
        return text.count(f"{self.begin}{self.soft * self.count}{self.end}")


def picture_tokens(folder: Path, config: Mapping[str, Any]) -> PictureTokens:
    """Of a model that sees pictures; config is its config.json.

    Raises StepError `model_without_vision`, `bad_base_model`, `processor_not_supported`.
    """
    _check_sees(config)
    tokenizer, processor = json_object(folder / "tokenizer_config.json"), json_object(folder / "processor_config.json")
    nested = processor.get("image_processor")
    pictures = nested if isinstance(nested, dict) else json_object(folder / "preprocessor_config.json")
    if not pictures:
        hint = "it needs preprocessor_config.json, or processor_config.json with an image_processor"
        raise StepError("bad_base_model", "the base model does not say how it reads pictures", hint=hint)
    if processor.get("do_pan_and_scan") or pictures.get("do_pan_and_scan"):
        hint = "set do_pan_and_scan to false in its preprocessor_config.json"
        raise StepError("processor_not_supported", "the base model cuts pictures into parts (pan and scan)", hint=hint)
    begin, soft, end = (_token(tokenizer, name) for name in ("boi_token", "image_token", "eoi_token"))
    soft_id = config.get("image_token_index", config.get("image_token_id", DEFAULT_SOFT_ID))  # both have been in use
    count = processor.get("image_seq_length", DEFAULT_COUNT)
    made = config.get("mm_tokens_per_image", DEFAULT_COUNT)
    if count != made:
        message = f"the base model makes {made} tokens of a picture, its processor_config.json says {count}"
        raise StepError("bad_base_model", message, hint="use the processor that came with the model")
    return PictureTokens(begin, soft, soft_id, end, count, _size(pictures))


def _check_sees(config: Mapping[str, Any]) -> None:
    reason = base_model.why_no_pictures(config)
    if reason is not None:
        message = f"the base model cannot be trained on pictures: {reason}"
        raise StepError("model_without_vision", message, hint="use gemma-3-4b-it or larger, or modality text")


def _token(tokenizer: Mapping[str, Any], name: str) -> str:
    found = tokenizer.get(name)
    text = found.get("content") if isinstance(found, dict) else found
    if not isinstance(text, str) or not text:
        raise StepError("bad_base_model", f"the base model's tokenizer_config.json names no {name}")
    return text


def _size(pictures: Mapping[str, Any]) -> tuple[int, int] | None:
    """Known when all that the processor does to the pixels' number is one bilinear resize."""
    size = pictures.get("size")
    plain = pictures.get("do_resize", True) and pictures.get("resample", BILINEAR) in (BILINEAR, None)
    if not plain or pictures.get("do_center_crop") or not isinstance(size, dict):
        return None
    width, height = size.get("width"), size.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None
