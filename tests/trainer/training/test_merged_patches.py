"""Pictures of Gemma 4's unified models are, to the bit, those of transformers."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image as pillow
from PIL.Image import Image

from tests.trainer.training.unified_processor import processed
from trainer.pictures.grids import AspectRatioGrid
from trainer.training.merged_patches import merged_patches

REAL = AspectRatioGrid(patch=16, pooling=3, most_tokens=280, resample=None)
SMALL = AspectRatioGrid(patch=4, pooling=3, most_tokens=70, resample=None)
# Digests of the pixels and positions that Gemma4UnifiedImageProcessor of transformers 5.24.0 returns with torchvision
# 0.28.0 and torch 2.13.0, for `noise` of these sizes.
DIGESTS = {
    (640, 480): "0ad3d3c5ebe330f3",
    (1000, 300): "602cd0ecf261552f",
    (3, 2000): "8cd7e6af0977b2f2",
    (100, 90): "5251605bdb1205ca",
    (912, 672): "051d2118461a8787",
}


def noise(size: tuple[int, int]) -> Image:
    """Return a picture of random pixels, the same for a size each time."""
    width, height = size
    pixels = np.random.default_rng(width * 10_000 + height).integers(0, 256, (height, width, 3))
    return pillow.fromarray(pixels.astype("uint8"))


def digest(pixels: torch.Tensor, positions: torch.Tensor) -> str:
    return hashlib.sha256(pixels.numpy().tobytes() + positions.numpy().tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("size", DIGESTS)
def test_patches_are_those_of_transformers_processor_with_torchvision(size: tuple[int, int]) -> None:
    pixels, positions = merged_patches(noise(size), REAL)
    assert (pixels.shape, positions.shape) == ((280, 48 * 48 * 3), (280, 2))
    assert digest(pixels, positions) == DIGESTS[size]


@pytest.mark.parametrize("size", [(48, 40), (96, 24), (20, 60), (3, 50), (50, 3), (1, 1), (101, 103)])
def test_patches_of_other_grids_are_in_transformers_order(size: tuple[int, int]) -> None:
    pixels, positions = merged_patches(noise(size), SMALL)
    theirs = processed([noise(size)], 4, 3, 70)
    assert torch.equal(pixels, theirs["pixel_values"][0])
    assert torch.equal(positions, theirs["image_position_ids"][0])
    assert int((positions[:, 0] >= 0).sum()) == SMALL.tokens(size)


def test_train_reads_the_picture_of_the_row_and_not_a_resized_copy() -> None:
    """Pillow would resize it slightly differently."""
    from trainer.pictures.decoding import picture_to_store

    content = _png(noise((2000, 1500)))
    assert picture_to_store(content, SMALL) == content
    assert picture_to_store(content, AspectRatioGrid(4, 3, 70, resample=3)) != content


def _png(picture: Image) -> bytes:
    import io

    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
