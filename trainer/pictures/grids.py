"""Picture grids: sizes and soft tokens of the pictures that a model reads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from gemtune.datasets.refusal import BadRow

Size = tuple[int, int]  # (width, height) in pixels


class Grid(Protocol):
    """Grid into which a processor divides pictures.

    resample: the filter by which it resizes, as PIL.Image.Resampling numbers it; None if it does not resize with
    Pillow, whose pixels would differ.
    """

    @property
    def resample(self) -> int | None: ...

    def tokens(self, size: Size) -> int:
        """Return the number of soft tokens of a picture. Raises BadRow."""
        ...

    def resized(self, size: Size) -> Size | None:
        """Return the size to which the processor resizes a picture.

        None if that is not known, or if Pillow cannot do it as the processor does. Raises BadRow.
        """
        ...


@dataclass(frozen=True, slots=True)
class FixedGrid:
    """Grid of Gemma 3, the same for every picture.

    size: to which pictures are resized. count: the soft tokens that each becomes.
    """

    count: int
    size: Size | None
    resample: int

    def tokens(self, size: Size) -> int:
        return self.count

    def resized(self, size: Size) -> Size | None:
        return self.size


@dataclass(frozen=True, slots=True)
class AspectRatioGrid:
    """Grid of Gemma 4, which keeps aspect ratios as far as patches allow.

    A picture becomes at most `most_tokens` soft tokens. A soft token stands for `pooling` times `pooling` patches of
    `patch` times `patch` pixels. Small pictures are enlarged. The arithmetic is that of transformers'
    `get_aspect_ratio_preserving_size`, roundings included.

    most_along_a_side: the number of soft tokens for whose positions the model has embeddings.
    """

    patch: int
    pooling: int
    most_tokens: int
    resample: int | None
    most_along_a_side: float = math.inf

    def tokens(self, size: Size) -> int:
        width, height = self.divisible(size)
        return (width // self.side) * (height // self.side)

    def resized(self, size: Size) -> Size | None:
        return None if self.resample is None else self.divisible(size)

    def divisible(self, size: Size) -> Size:
        """Return the size that can be divided into soft tokens. Raises BadRow."""
        width, height = size
        pixels = self.most_tokens * self.side**2
        factor = math.sqrt(pixels / (height * width))
        new_width, new_height = (math.floor(factor * length / self.side) * self.side for length in (width, height))
        if not new_width and not new_height:
            raise BadRow(f"a picture of {width} by {height} pixels is too small to be divided into patches")
        longest = self.most_tokens * self.side
        if not new_height:
            new_height, new_width = self.side, min(width // height * self.side, longest)
        elif not new_width:
            new_width, new_height = self.side, min(height // width * self.side, longest)
        if (along := max(new_width, new_height) // self.side) > self.most_along_a_side:
            reason = f"and the model has positions for {self.most_along_a_side}"
            raise BadRow(f"a picture of {width} by {height} pixels becomes {along} soft tokens along a side, {reason}")
        return new_width, new_height

    @property
    def side(self) -> int:
        """Return the side, in pixels, of the square that becomes a soft token."""
        return self.patch * self.pooling
