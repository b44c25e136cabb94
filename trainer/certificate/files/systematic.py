"""Systematic errors of a rounded tensor: a wrong scale, or lost training.

Rounding errors have nothing to do with the weights, so their sum, weighted with the weights, is near 0, however large
they are. A row that is scaled by 1.2 is within the error of 4 bits, and so is a tensor without its adapter, which adds
0.5% to the weights; both show in such sums, which cover hundreds of values or a million.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

# Standard deviations of such a sum that chance may reach. A file has 262,144 rows, and rounding errors of one row are
# no perfect noise.
DEVIATIONS = 8.0
# Quantizers choose a block's scale for the smallest error, which makes values smaller: by a share that is the square of
# the relative error. Measured in NF4: 0.6 times that. Rows of Gemma 3 270M in q4_k_m reach 0.3 of what is allowed.
SHRINKAGE = 3.0
# Relative error that the scales of blocks may have in common. They are float16 numbers, with relative errors of up to
# 2^-11. Measured on Gemma 3 270M, whose weights were quantized before: up to 0.0006 for a whole tensor in q8_0.
SCALE_ERROR = 2.0**-9
# Common error of values without blocks below which nothing is wrong. Without the lower half of their digits, those of
# bf16 would be too small by 0.003.
LEAST = 2.0**-12
# Smallest share of what training added to a tensor that a file holds, apart from chance. Measured on Gemma 3 270M: at
# least 0.998 in 16 bits, 0.87 in q4_k_m and 0.73 in NF4, where chance may make up to 0.25 and 0.31.
KEPT = 0.5


def scaled_row(
    exact: torch.Tensor,
    error: torch.Tensor,
    variance: torch.Tensor,
    smallest: float,
    *,
    part: str = "row",
    tolerance: float = SCALE_ERROR,
) -> str | None:
    """Return by how much the worst row is scaled, or None.

    exact, error: (rows, width), the trained values, and those of the file less these. variance: (rows, width), that of
    an honest error. smallest: values up to this may be rounded to 0. part: what a row is, for the message.
    tolerance: relative error that scales may have.
    """
    squared = exact.square()
    squares = squared.sum(1).clamp(min=1e-30)
    scale = (exact * error).sum(1) / squares
    chance = DEVIATIONS * (variance * squared).sum(1).sqrt() / squares
    shrinkage = SHRINKAGE * variance.sum(1) / squares
    vanished = smallest * math.sqrt(exact.shape[1]) / squares.sqrt()
    excess = scale.abs() - (chance + shrinkage + vanished + tolerance)
    if bool((excess <= 0).all()):
        return None
    worst = int(torch.nan_to_num(excess, nan=torch.inf).argmax())
    return f"has a {part} scaled by {1 + float(scale[worst]):.3f}"


@dataclass
class Systematic:
    """Sums over a tensor, from which its systematic errors follow.

    squares, scaled, scaled_variance: of exact², error · exact and variance · exact². The same with `added_`: of what
    training added instead of exact. variance: of the honest error.
    """

    squares: float = 0.0
    scaled: float = 0.0
    scaled_variance: float = 0.0
    variance: float = 0.0
    added_squares: float = 0.0
    added: float = 0.0
    added_variance: float = 0.0

    def add(self, exact: torch.Tensor, error: torch.Tensor, variance: torch.Tensor, added: torch.Tensor | None) -> None:
        """Add values; all tensors have the same shape.

        added: what training added to the base model's values; None if that is unknown.
        """
        exact, error, variance = (each.reshape(-1) for each in (exact, error, variance))
        self.squares += _dot(exact, exact)
        self.scaled += _dot(error, exact)
        self.scaled_variance += _dot(variance * exact, exact)
        self.variance += float(variance.sum())
        if added is not None:
            added = added.reshape(-1)
            self.added_squares += _dot(added, added)
            self.added += _dot(error, added)
            self.added_variance += _dot(variance * added, added)

    def problem(self, *, in_blocks: bool, may_amplify: bool = False) -> str | None:
        """Return what is wrong with the tensor, or None.

        in_blocks: whether its values have the scales of blocks. may_amplify: whether its type has so few levels that it
        may hold a multiple of what training added.
        """
        if self.squares > 0:
            scale = self.scaled / self.squares
            chance = DEVIATIONS * math.sqrt(self.scaled_variance) / self.squares
            shrinkage = SHRINKAGE * self.variance / self.squares
            if not abs(scale) <= chance + shrinkage + (SCALE_ERROR if in_blocks else LEAST):
                return f"is scaled by {1 + scale:.4f}"
        if self.added_squares > 0:
            share = 1 + self.added / self.added_squares
            chance = DEVIATIONS * math.sqrt(self.added_variance) / self.added_squares
            largest = math.inf if may_amplify else 2 - KEPT + chance
            if not KEPT - chance <= share <= largest:
                return f"holds {share:.0%} of what training added"
        return None


def _dot(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.dot(first, second))
