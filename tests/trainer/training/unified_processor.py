"""Image processor of Gemma 4's unified models, of transformers' own functions.

Its module imports torchvision, so the functions are taken out of the module's text. torchvision only resizes: the
digests of test_merged_patches.py were made by the whole processor with torchvision.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL.Image import Image
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

MODULE = Path(transformers.__file__).parent / "models" / "gemma4_unified" / "image_processing_gemma4_unified.py"


@cache
def functions() -> dict[str, Any]:
    """Return the functions of transformers' module by name."""
    body: list[ast.stmt] = [node for node in ast.parse(MODULE.read_text()).body if isinstance(node, ast.FunctionDef)]
    namespace: dict[str, Any] = {"math": math, "torch": torch}
    exec(compile(ast.Module(body, []), str(MODULE), "exec"), namespace)
    return namespace


def processed(pictures: Sequence[Image], patch: int, pooling: int, most_tokens: int) -> dict[str, torch.Tensor]:
    """Return `pixel_values` and `image_position_ids` of pictures.

    The steps are those of `Gemma4UnifiedImageProcessor._preprocess`.
    """
    theirs = functions()
    outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for picture in pictures:
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        size = theirs["get_aspect_ratio_preserving_size"](*image.shape[1:], patch, most_tokens * pooling**2, pooling)
        if size != tuple(image.shape[1:]):
            image = torch.nn.functional.interpolate(
                image[None].contiguous(), size=list(size), mode="bicubic", align_corners=False, antialias=True
            )[0]
        patches = theirs["convert_image_to_patches"](image * (1 / 255), patch)
        grid = torch.meshgrid(torch.arange(size[1] // patch), torch.arange(size[0] // patch), indexing="xy")
        positions = torch.stack(grid, dim=-1).reshape(len(patches), 2)
        merged = theirs["patches_merge"](patches[None], positions[None], len(patches) // pooling**2)
        outputs.append(theirs["pad_along_first_dim"](merged[0][0], merged[1][0], most_tokens))
    pixels, places = zip(*outputs, strict=True)
    return {"pixel_values": torch.stack(pixels), "image_position_ids": torch.stack(places)}


class ImageProcessor(BaseImageProcessor):
    """Image processor of the tiny unified model, for transformers' processor."""

    def __call__(self, images: Any, *_: Any, **more: Any) -> BatchFeature:
        pictures = images if isinstance(images[0], Image) else [picture for row in images for picture in row]
        outputs = processed(pictures, 4, 3, 70)
        tokens = (outputs["image_position_ids"][..., 0] >= 0).sum(-1).tolist()
        return BatchFeature(outputs | {"num_soft_tokens_per_image": tokens})
