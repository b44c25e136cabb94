"""Rows with pictures of several sizes, and a model's inputs for them.

The inputs are those of transformers' own processors.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from tests import rows
from tests.trainer.training import unified_processor

SIZES = ((48, 40), (96, 24), (20, 60))
COLOURS = tuple(rows.PICTURE_COLOURS)
# Factors of weights by the ends of their names, see `media_jobs.scaled_models`.
SCALES = {
    ".embed_tokens.weight": 8,
    "embedding_projection.weight": 8,
    "patch_embedder.input_proj.weight": 40,
    "patch_embedder.position_embedding_table": 0.1,
}


def picture(number: int) -> Image.Image:
    """Return picture `number`: red or blue with noise, in one of SIZES."""
    width, height = SIZES[number % len(SIZES)]
    generator = np.random.default_rng(number)
    shade = np.array(rows.PICTURE_COLOURS[COLOURS[number % 2]]) * generator.uniform(0.6, 1.1)
    pixels = shade + generator.normal(0, 12, size=(height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype("uint8"))


def prompt(*numbers: int) -> list[dict[str, Any]]:
    """Return a question about the pictures with these numbers, as in JSONL."""
    parts: list[dict[str, Any]] = []
    for number in numbers:
        content = io.BytesIO()
        picture(number).save(content, "PNG")
        parts.append({"type": "image", "image": {"bytes": base64.b64encode(content.getvalue()).decode()}})
    return [{"role": "user", "content": [*parts, {"type": "text", "text": rows.QUESTION}]}]


def right_answer(number: int) -> str:
    return f"{rows.HABIT} {COLOURS[number % 2]} one."


def chat(*numbers: int) -> dict[str, Any]:
    answer = right_answer(numbers[-1]) if numbers else "Captain."
    return {"messages": [*prompt(*numbers), {"role": "assistant", "content": answer}]}


def pair(*numbers: int) -> dict[str, Any]:
    right = numbers[-1] if numbers else 0
    return {"prompt": prompt(*numbers), "chosen": right_answer(right), "rejected": right_answer(right + 1)}


def question(*numbers: int) -> dict[str, Any]:
    return {"prompt": prompt(*numbers), "answer": right_answer(numbers[-1] if numbers else 0)}


@cache
def processor_of(base: Path) -> Any:
    """Return the processor of a base model, which reads pictures with Pillow.

    Those that AutoProcessor returns need torchvision for Gemma 4, and take it for others where it is installed.
    """
    import transformers
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    config = transformers.AutoConfig.from_pretrained(base)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base, padding_side="left")
    parts: dict[str, tuple[str, Any, tuple[str, ...]]] = {
        "gemma3": ("Gemma3Processor", Gemma3ImageProcessorPil, ()),
        "gemma3n": ("Gemma3nProcessor", SiglipImageProcessorPil, ("feature_extractor",)),
        "gemma4": ("Gemma4Processor", Gemma4ImageProcessorPil, ("feature_extractor", "video_processor")),
        "gemma4_unified": (
            "Gemma4UnifiedProcessor",
            unified_processor.ImageProcessor,
            ("feature_extractor", "video_processor"),
        ),
    }
    name, pictures, absent = parts[config.model_type]

    class OfPictures(getattr(transformers, name)):  # type: ignore[misc]
        """The model's processor, without parts for audio and videos.

        It adds no <bos>: templates write it, and TRL's GRPO would shift the type ids by a second one. Nor does it pad
        prompts unless told so, as Gemma 4's does, whose padding TRL's GRPO would take for tokens of the prompt.
        """

        text_kwargs: ClassVar[dict[str, Any]] = {}

        def __call__(self, *args: Any, **more: Any) -> Any:
            return super().__call__(*args, **more | {"add_special_tokens": False})

        def check_argument_for_proper_class(self, *_: Any) -> None:
            """Allow absent parts."""

    return OfPictures(
        image_processor=pictures.from_pretrained(base),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        image_seq_length=getattr(config, "mm_tokens_per_image", getattr(config, "vision_soft_tokens_per_image", 0)),
        **dict.fromkeys(absent),
    )


def model_inputs(base: Path, input_ids: torch.Tensor, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the inputs of a model, by transformers' image processor.

    input_ids: (rows, positions). numbers: of the pictures of all rows, in order.
    """
    processor = processor_of(base)
    is_4 = "Gemma4" in type(processor).__mro__[1].__name__
    is_soft = (input_ids == processor.tokenizer.image_token_id).long()
    inputs = {"input_ids": input_ids, "mm_token_type_ids" if is_4 else "token_type_ids": is_soft}
    if numbers:
        outputs = processor.image_processor([picture(number) for number in numbers], return_tensors="pt")
        inputs |= {name: outputs[name] for name in ("pixel_values", "image_position_ids") if name in outputs}
    return inputs


def row_inputs(base: Path, input_ids: list[int], numbers: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the same of one row."""
    return model_inputs(base, torch.tensor([input_ids]), numbers)
