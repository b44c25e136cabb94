"""Picture tokens: how a base model represents a picture in its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemtune import families
from gemtune.datasets.conversation import Conversation
from gemtune.errors import StepError
from gemtune.families.configs.fields import shown
from gemtune.families.generation import ModelType, PictureFormat
from gemtune.request import base_model
from trainer.conversation.chat_template import json_object
from trainer.media.sources import PICTURE
from trainer.media.token_text import MOST_IDS, MediaTokens, checked_number, named_token
from trainer.pictures.grids import AspectRatioGrid, FixedGrid, Grid, Size

# Soft tokens per picture: the default of image_seq_length of the processors of Gemma 3 and 3n.
DEFAULT_COUNT = 256
# Id of the soft token: the default of Gemma3Config's image_token_id.
DEFAULT_SOFT_ID = 262_144
# Defaults of Gemma4ImageProcessorPil, and the numbers of soft tokens that it takes.
DEFAULT_PATCH, DEFAULT_POOLING, DEFAULT_MOST_TOKENS = 16, 3, 280
DEFAULT_POSITIONS_OF_PATCHES, DEFAULT_POSITIONS_OF_TOKENS = 10_240, 1120
SUPPORTED_MOST_TOKENS = (70, 140, 280, 560, 1120)
# A configuration that says more would make rows of any length: released models have 256 tokens per picture, fewer than
# 300,000 tokens, and 896 pixels per side.
MOST_TOKENS, MOST_PIXELS, MOST_POOLING = 8_192, 8_192, 64
# Factor from pixels of 8 bits to 0 to 1: the default of transformers' image processors.
PIXEL_SCALE = 1 / 255
# PIL.Image.Resampling, as preprocessor_config.json writes them.
BILINEAR, BICUBIC = 2, 3


@dataclass(frozen=True, slots=True)
class PictureTokens(MediaTokens):
    """Tokens that stand for a picture.

    around: text that the processor adds before and after them. grid: how many soft tokens a picture becomes.
    """

    around: str
    grid: Grid

    def media_in(self, conversation: Conversation) -> Sequence[Size]:
        """Return the sizes of a conversation's opened pictures, in order."""
        return [picture.size for picture in conversation.images()]

    def text_of(self, size: Size) -> str:
        """Return the tokens of a picture of a size. Raises BadRow."""
        return f"{self.around}{self.begin}{self.soft * self.grid.tokens(size)}{self.end}{self.around}"


def picture_tokens(folder: Path, config: Mapping[str, Any]) -> PictureTokens:
    """Return the picture tokens of the vision model in a folder.

    config: its config.json. Raises StepError `model_without_vision`, `bad_base_model`, `processor_not_supported`.
    """
    picture_format, kind = _format_of(config)
    tokenizer, processor = json_object(folder / "tokenizer_config.json"), json_object(folder / "processor_config.json")
    nested = processor.get("image_processor")
    pictures = nested if isinstance(nested, dict) else json_object(folder / "preprocessor_config.json")
    if not pictures:
        hint = "it needs preprocessor_config.json, or processor_config.json with an image_processor"
        raise StepError("bad_base_model", "the base model has no configuration of an image processor", hint=hint)
    tokens = {name: named_token(tokenizer, name) for name in ("boi_token", "image_token", "eoi_token")}
    soft_id = config.get("image_token_index", config.get("image_token_id", DEFAULT_SOFT_ID))  # both have been in use
    checked_number("the id of a picture token", soft_id, MOST_IDS)
    return PictureTokens(
        noun=PICTURE,
        written=tokens[picture_format.written],
        around=picture_format.around,
        begin=tokens["boi_token"],
        soft=tokens["image_token"],
        soft_id=soft_id,
        end=tokens["eoi_token"],
        grid=_aspect_ratio_grid(config, pictures, encoder_free=kind.encoder_free)
        if picture_format.by_aspect_ratio
        else _fixed_grid(config, processor, pictures),
    )


def _format_of(config: Mapping[str, Any]) -> tuple[PictureFormat, ModelType]:
    reason = base_model.why_no_media("vision", config)
    family_and_type = families.of_config(config)
    if reason is not None or family_and_type is None or family_and_type[0].pictures is None:
        code, message, hint = base_model.media_refusal("vision", reason)
        raise StepError(code, message, hint=hint)
    return family_and_type[0].pictures, family_and_type[1]


def _fixed_grid(config: Mapping[str, Any], processor: Mapping[str, Any], pictures: Mapping[str, Any]) -> FixedGrid:
    if processor.get("do_pan_and_scan") or pictures.get("do_pan_and_scan"):
        hint = "set do_pan_and_scan to false in its preprocessor_config.json"
        raise StepError("processor_not_supported", "the base model cuts pictures into parts (pan and scan)", hint=hint)
    count = processor.get("image_seq_length", DEFAULT_COUNT)
    of_gemma_3n = config.get("vision_soft_tokens_per_image", DEFAULT_COUNT)
    count_of_model = config.get("mm_tokens_per_image", of_gemma_3n)
    if count != count_of_model:
        message = f"config.json has {count_of_model} tokens per picture, processor_config.json has {count}"
        raise StepError("bad_base_model", message, hint="use the processor that came with the model")
    size, of_model = pictures.get("size"), config["vision_config"].get("image_size")
    if of_model is not None and isinstance(size, dict) and {size.get("width"), size.get("height")} != {of_model}:
        message = f"config.json has pictures of {of_model} pixels per side, the image processor makes {shown(size)}"
        raise StepError("bad_base_model", message, hint="use the processor that came with the model")
    return FixedGrid(checked_number("tokens per picture", count, MOST_TOKENS), _size(pictures), BILINEAR)


def _size(pictures: Mapping[str, Any]) -> Size | None:
    """Return the processor's (width, height) if it only resizes bilinearly."""
    size = pictures.get("size")
    plain = pictures.get("do_resize", True) and pictures.get("resample", BILINEAR) in (BILINEAR, None)
    if not plain or pictures.get("do_center_crop") or not isinstance(size, dict):
        return None
    width, height = size.get("width"), size.get("height")
    if width is None or height is None:
        return None
    checked_width = checked_number("the width of a picture", width, MOST_PIXELS)
    return checked_width, checked_number("its height", height, MOST_PIXELS)


def _aspect_ratio_grid(
    config: Mapping[str, Any], pictures: Mapping[str, Any], *, encoder_free: bool
) -> AspectRatioGrid:
    """Return the grid of a processor of Gemma 4.

    encoder_free: see `ModelType`; such processors resize with torch. Raises StepError `bad_base_model` where it does
    not divide pictures as the model does, and `processor_not_supported`.
    """
    numbers = {}
    for name, default, most in (
        ("patch_size", DEFAULT_PATCH, MOST_PIXELS),
        ("pooling_kernel_size", DEFAULT_POOLING, MOST_POOLING),
    ):
        numbers[name] = checked_number(name, pictures.get(name, default), most)
        if (of_model := config["vision_config"].get(name, default)) != numbers[name]:
            message = f"config.json has {name} {of_model}, the image processor has {numbers[name]}"
            raise StepError("bad_base_model", message, hint="use the processor that came with the model")
    most_tokens = pictures.get("max_soft_tokens", DEFAULT_MOST_TOKENS)
    if most_tokens not in SUPPORTED_MOST_TOKENS or type(most_tokens) is not int:
        message = f"max_soft_tokens is {most_tokens!r}: expected one of {', '.join(map(str, SUPPORTED_MOST_TOKENS))}"
        raise StepError("bad_base_model", message, hint="use the processor that came with the model")
    hint = "use the processor that came with the model"
    if pictures.get("resample", BICUBIC) not in (BICUBIC, None) or not pictures.get("do_resize", True):
        message = "the base model's processor does not resize pictures as Gemma 4's does"
        raise StepError("processor_not_supported", message, hint=hint)
    if encoder_free and not _scales_only(pictures):
        message = "the base model's processor does not scale pixels to 0 to 1, as Gemma 4's does"
        raise StepError("processor_not_supported", message, hint=hint)
    resample = None if encoder_free else BICUBIC
    pooling, tower = numbers["pooling_kernel_size"], config["vision_config"]
    along = tower.get("mm_posemb_size", DEFAULT_POSITIONS_OF_TOKENS)
    if not encoder_free:  # patches have positions, and not soft tokens
        along = tower.get("position_embedding_size", DEFAULT_POSITIONS_OF_PATCHES) // pooling
    return AspectRatioGrid(numbers["patch_size"], pooling, most_tokens, resample, along)


def _scales_only(pictures: Mapping[str, Any]) -> bool:
    """Return whether a processor only divides pixels by 255."""
    rescales = pictures.get("do_rescale", True) and pictures.get("rescale_factor", PIXEL_SCALE) == PIXEL_SCALE
    return bool(rescales) and not pictures.get("do_normalize", False)
