"""Picture grids agree with transformers' processors."""

from __future__ import annotations

import random

import pytest

from gemtune.datasets.refusal import BadRow
from trainer.pictures.grids import AspectRatioGrid, FixedGrid

SIDES = [1, 2, 3, 16, 47, 48, 49, 224, 640, 1000, 4000]


def grid_of(most_tokens: int, patch: int = 16, pooling: int = 3) -> AspectRatioGrid:
    return AspectRatioGrid(patch, pooling, most_tokens, resample=3)


@pytest.mark.parametrize("most_tokens", [70, 140, 280, 560, 1120])
@pytest.mark.parametrize(("patch", "pooling"), [(16, 3), (4, 3), (14, 2)])
def test_pictures_of_gemma_4_are_divided_as_by_transformers(most_tokens: int, patch: int, pooling: int) -> None:
    from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

    grid = grid_of(most_tokens, patch, pooling)
    chance = random.Random(most_tokens)
    sizes = [(width, height) for width in SIDES for height in SIDES]
    sizes += [(chance.randint(1, 7000), chance.randint(1, 7000)) for _ in range(300)]
    for width, height in sizes:
        theirs = get_aspect_ratio_preserving_size(height, width, patch, most_tokens * pooling**2, pooling)
        assert grid.resized((width, height)) == theirs[::-1]
        assert grid.tokens((width, height)) == theirs[0] * theirs[1] // (patch * pooling) ** 2 <= most_tokens


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((224, 224), 256), ((640, 480), 266), ((4000, 3000), 266), ((1000, 300), 270), ((3, 2000), 280)],
)
def test_the_number_of_tokens_follows_from_the_aspect_ratio_alone(size: tuple[int, int], tokens: int) -> None:
    assert grid_of(280).tokens(size) == tokens


def test_a_picture_that_cannot_be_divided_refuses_its_row() -> None:
    """One patch is all there is, and neither side is long enough for it."""
    with pytest.raises(BadRow, match="too small"):
        AspectRatioGrid(patch=16, pooling=1, most_tokens=0, resample=3).tokens((9, 9))


def test_a_picture_longer_than_the_models_positions_refuses_its_row() -> None:
    """The model would look positions up behind the end of its table."""
    grid = AspectRatioGrid(patch=16, pooling=3, most_tokens=280, resample=3, most_along_a_side=20)
    assert grid.tokens((1000, 800)) == 18 * 14
    for size in ((2000, 800), (800, 2000), (3, 2000)):
        with pytest.raises(BadRow, match="soft tokens along a side, and the model has positions for 20"):
            grid.tokens(size)


def test_pictures_of_gemma_3_all_have_the_same_number_of_tokens() -> None:
    grid = FixedGrid(256, (896, 896), resample=2)
    assert {grid.tokens(size) for size in ((1, 1), (4000, 3))} == {256}
    assert grid.resized((4000, 3)) == (896, 896)
