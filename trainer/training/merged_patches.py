"""Pictures as one large patch per soft token, for Gemma 4's unified models.

transformers' own processor of these models, `Gemma4UnifiedImageProcessor`, needs torchvision, whose build for CUDA,
the only one on PyPI, cannot be imported beside a torch for CPUs. torchvision resizes such pictures with torch, so the
same pixels come from torch alone, to the bit.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL.Image import Image

from trainer.pictures.grids import AspectRatioGrid
from trainer.pictures.tokens import PIXEL_SCALE


def merged_patches(picture: Image, grid: AspectRatioGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the patches of a picture in RGB, and their positions.

    Patches: (most tokens of the grid, side * side * 3) in float32 from 0 to 1, row by row of the picture, the channels
    of a pixel together, padded with zeros. Positions: (most tokens, 2), column and row, -1 for padding. transformers
    cuts smaller patches and merges them, which only moves values. Raises BadRow.
    """
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    width, height = grid.divisible(picture.size)
    if picture.size != (width, height):
        # As torchvision.transforms.v2.functional.resize on a CPU, for bicubic filters and 8 bits per channel.
        resized = torch.nn.functional.interpolate(
            pixels[None], size=[height, width], mode="bicubic", align_corners=False, antialias=True
        )
        pixels = resized[0]
    side, columns, rows = grid.side, width // grid.side, height // grid.side
    squares = (pixels * PIXEL_SCALE).reshape(3, rows, side, columns, side).permute(1, 3, 2, 4, 0)
    patches = torch.zeros(grid.most_tokens, side * side * 3)
    patches[: rows * columns] = squares.reshape(rows * columns, -1)
    positions = torch.full((grid.most_tokens, 2), -1)
    positions[: rows * columns, 0] = torch.arange(columns).repeat(rows)
    positions[: rows * columns, 1] = torch.arange(rows).repeat_interleave(columns)
    return patches, positions
