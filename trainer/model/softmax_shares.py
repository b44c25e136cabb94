"""What the columns of a block of the head are to each position, in 16 bits, and the product with the head's rows.

Columns whose share of no position's softmax so far exceeds NEGLIGIBLE are not columns of the product, since each one's
part of the gradient is less than what rounding takes (as in Wijmans et al., Cut Your Losses, arXiv:2411.09009, which
leaves out 2^-12). All of them together are more than that, and always in the same direction: a training that leaves
them out drifts away from an exact one. So one column stands for those of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.model.on_cpu.compiled import loops_for

# Columns whose exponents are summed at once.
PIECE = 512
# The number of picked columns is a multiple of this: oneDNN writes code for every shape it has not met, and keeps half
# a megabyte for it.
PICKED_STEP = 128
# The smallest share of a softmax that has a column of its own.
NEGLIGIBLE = 2.0**-14
# Above this share of columns, picking them costs more than it saves.
WORTH_PICKING = 0.5


@dataclass(frozen=True, slots=True)
class Shares:
    """of_positions: (positions, block). largest, total: of each column over the positions, (block,)."""

    of_positions: torch.Tensor
    largest: torch.Tensor
    total: torch.Tensor

    def times(self, rows: torch.Tensor) -> torch.Tensor:
        """The product with the block's rows, (block, width): (positions, width)."""
        counts = self.largest > NEGLIGIBLE
        columns = counts.nonzero().squeeze(1)
        if len(columns) >= WORTH_PICKING * len(rows):
            return self.of_positions @ rows
        others = (~counts).nonzero().squeeze(1)[: -(len(columns) + 1) % PICKED_STEP + 1]
        return self._picked(rows, torch.cat((columns, others)))

    def _picked(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """With these columns, but the last stands for all others: by their sum, and by the mean of their rows, each
        weighted by what it is to all positions together. So the gradient's sum over positions lacks none of them."""
        others = torch.ones_like(self.total)
        others[columns[:-1]] = 0
        weights = self.total * others
        total = weights.sum(dtype=torch.float32).clamp_min(torch.finfo(torch.float32).tiny)
        picked, picked_rows = self.of_positions.index_select(1, columns), rows.index_select(0, columns)
        picked[:, -1] = _matrix_vector(self.of_positions, others)
        picked_rows[-1] = _vector_matrix(weights, rows) / total
        return picked @ picked_rows


def shares(logits: torch.Tensor, own: torch.Tensor, rest: torch.Tensor, slope: torch.Tensor | None = None) -> Shares:
    """Of exp(logits), relative to each position's sum of them up to here, own + rest, and times the slope. The block's
    are added to `rest` before; the result is in the place of `logits`."""
    loops = loops_for(logits)
    if loops is not None and slope is None:
        return Shares(logits, *loops.shares(logits, own, rest))
    powers = None if loops is None else loops.power_sums(logits)[0]
    weights = logits.exp_()
    rest += sums(weights) if powers is None else powers
    if slope is not None:
        weights.mul_(slope)
    # As long as all are next to nothing, none has a share: the largest is in a later block.
    so_far = (own + rest).clamp_min(torch.finfo(torch.float32).tiny)
    weights.mul_((1 / so_far).to(weights.dtype).unsqueeze(1))
    return Shares(weights, weights.amax(0), _vector_matrix(own.new_ones(len(weights)), weights))


def power_sums(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each position the sum of e^x over its logits x, and that of x e^x, which is 0 where x is -inf; (positions,) in
    float32 at least."""
    loops = loops_for(logits)
    if loops is not None:
        found: tuple[torch.Tensor, torch.Tensor] = loops.power_sums(logits)
        return found
    powers = logits.exp()
    return sums(powers), sums(powers * logits.clamp_min(torch.finfo(logits.dtype).min))


def sums(weights: torch.Tensor) -> torch.Tensor:
    """Of each position, in float32 at least. In 16 bits they are made in 32 and rounded at their end: of short pieces,
    so that little is lost; asked for 32 bits, PyTorch would copy all weights first."""
    exact = torch.promote_types(weights.dtype, torch.float32)
    if weights.dtype == exact or weights.shape[1] % PIECE:
        return weights.sum(1, dtype=exact)
    pieces: torch.Tensor = weights.unflatten(1, (-1, PIECE))
    return pieces.sum(2).sum(1, dtype=exact)


def _matrix_vector(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    loops = loops_for(matrix)
    if loops is not None:
        found: torch.Tensor = loops.matrix_vector(matrix, vector)
        return found
    return (matrix @ vector.to(matrix.dtype).unsqueeze(1)).squeeze(1)


def _vector_matrix(vector: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    loops = loops_for(matrix)
    if loops is not None:
        found: torch.Tensor = loops.vector_matrix(vector, matrix)
        return found
    return (vector.to(matrix.dtype).unsqueeze(0) @ matrix).squeeze(0)
