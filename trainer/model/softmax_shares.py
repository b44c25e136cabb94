"""The product of a block of softmax shares with the head's rows, in 16 bits.

A share is exp(logit) of a column of the head (a token of the vocabulary) divided by the position's sum of them so far:
its softmax probability, or more while blocks are missing. Columns whose share is at most NEGLIGIBLE at every position
are left out of the product, since each contributes less than rounding takes (as in Wijmans et al., Cut Your Losses,
arXiv:2411.09009, which leaves out shares below 2^-12). Their sum is larger than rounding errors, however, and always
has the same direction, so training without them would drift away from the exact result. Therefore one column per block
stands for all that are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.model.on_cpu.compiled import loops_for

# Columns that are summed in 32 bits before the sum is rounded to 16.
SUM_CHUNK = 512
# The number of selected columns is a multiple of this: oneDNN compiles code for every new shape, and caches half a
# megabyte per shape.
SELECTED_MULTIPLE = 128
# Columns whose share exceeds this at some position are multiplied individually.
NEGLIGIBLE = 2.0**-14
# If more than this fraction of columns were selected, copying them would cost more than the smaller product saves.
MAX_SELECTED_FRACTION = 0.5


@dataclass(frozen=True, slots=True)
class Shares:
    """The shares of one block of the head's columns.

    values: (positions, block). column_max, column_sum: (block,), the maximum and the sum of each column over the
    positions.
    """

    values: torch.Tensor
    column_max: torch.Tensor
    column_sum: torch.Tensor

    def matmul(self, rows: torch.Tensor) -> torch.Tensor:
        """Return values @ rows, almost: (positions, width).

        rows: (block, width), the head's rows of this block. Exact where many columns are significant; else those that
        are negligible at all positions are merged into one.
        """
        is_significant = self.column_max > NEGLIGIBLE
        columns = is_significant.nonzero().squeeze(1)
        if len(columns) >= MAX_SELECTED_FRACTION * len(rows):
            return self.values @ rows
        # Negligible columns fill up to the multiple; the last of them gives its place to the merged column.
        padding = (~is_significant).nonzero().squeeze(1)[: -(len(columns) + 1) % SELECTED_MULTIPLE + 1]
        return self._matmul_selected(rows, torch.cat((columns, padding)))

    def _matmul_selected(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Return values @ rows with all columns merged that are not selected.

        columns: indices of the selected columns; the last one is replaced by the merged one. It has the sum of the
        merged columns at each position, and the mean of their rows, weighted by their sums over the positions. So the
        sum over positions of the result is exact, up to rounding.
        """
        is_merged = torch.ones_like(self.column_sum)
        is_merged[columns[:-1]] = 0
        merged_weights = self.column_sum * is_merged
        merged_sum = merged_weights.sum(dtype=torch.float32).clamp_min(torch.finfo(torch.float32).tiny)
        selected, selected_rows = self.values.index_select(1, columns), rows.index_select(0, columns)
        selected[:, -1] = _matrix_vector(self.values, is_merged)
        selected_rows[-1] = _vector_matrix(merged_weights, rows) / merged_sum
        return selected @ selected_rows


def compute_shares(
    logits: torch.Tensor, target_exp: torch.Tensor, other_exp_sum: torch.Tensor, slope: torch.Tensor | None = None
) -> Shares:
    """Replace logits by their shares, in place; return them as Shares.

    logits: (positions, block), relative to each position's shift. target_exp, other_exp_sum: (positions,) in float32,
    the sums of exp(logit) of the target and of all other columns of earlier blocks; this block's are added to
    other_exp_sum in place. slope: (positions, block), the derivative of the soft cap, by which shares are multiplied.
    """
    loops = loops_for(logits)
    if loops is not None and slope is None:
        return Shares(logits, *loops.softmax_shares(logits, target_exp, other_exp_sum))
    exp_sum = None if loops is None else loops.exp_sums(logits)[0]
    weights = logits.exp_()
    other_exp_sum += row_sums(weights) if exp_sum is None else exp_sum
    if slope is not None:
        weights.mul_(slope)
    # If all exponentials so far underflow, their shares are 0: the largest logit is in a later block.
    sum_so_far = (target_exp + other_exp_sum).clamp_min(torch.finfo(torch.float32).tiny)
    weights.mul_((1 / sum_so_far).to(weights.dtype).unsqueeze(1))
    return Shares(weights, weights.amax(0), _vector_matrix(target_exp.new_ones(len(weights)), weights))


def exp_sums(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums of e^x and of x e^x over the logits x of each position.

    logits: (positions, block). Both sums are (positions,), in float32 at least; x e^x is 0 where x is -inf.
    """
    loops = loops_for(logits)
    if loops is not None:
        compiled_sums: tuple[torch.Tensor, torch.Tensor] = loops.exp_sums(logits)
        return compiled_sums
    exps = logits.exp()
    return row_sums(exps), row_sums(exps * logits.clamp_min(torch.finfo(logits.dtype).min))


def row_sums(weights: torch.Tensor) -> torch.Tensor:
    """Return the sum of each row of (rows, columns), in float32 at least.

    PyTorch sums 16-bit values in 32 bits and rounds the result; short chunks keep that rounding small. With
    dtype=float32 it would copy the whole tensor to 32 bits first.
    """
    sum_dtype = torch.promote_types(weights.dtype, torch.float32)
    if weights.dtype == sum_dtype or weights.shape[1] % SUM_CHUNK:
        return weights.sum(1, dtype=sum_dtype)
    chunks: torch.Tensor = weights.unflatten(1, (-1, SUM_CHUNK))
    return chunks.sum(2).sum(1, dtype=sum_dtype)


def _matrix_vector(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Return matrix (rows, columns) @ vector (columns,): (rows,)."""
    loops = loops_for(matrix)
    if loops is not None:
        product: torch.Tensor = loops.matrix_vector(matrix, vector)
        return product
    return (matrix @ vector.to(matrix.dtype).unsqueeze(1)).squeeze(1)


def _vector_matrix(vector: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return vector (rows,) @ matrix (rows, columns): (columns,)."""
    loops = loops_for(matrix)
    if loops is not None:
        product: torch.Tensor = loops.vector_matrix(vector, matrix)
        return product
    return (vector.to(matrix.dtype).unsqueeze(0) @ matrix).squeeze(0)
