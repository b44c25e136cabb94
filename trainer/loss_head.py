"""The language-model head and its loss in one pass over blocks of the vocabulary, with no logits kept.

Gemma's head has 262,144 columns: the logits of a thousand positions take a gigabyte, their gradient another. The loss
of a position, log(sum over j of exp(z_j - z_y)) for logits z and target y, is a sum that can be taken block by block
(as in the online softmax of Milakov & Gimelshein, arXiv:1805.02867). The gradient of the hidden states, the
softmax-weighted sum of the head's rows less the target's row, is another sum that runs along in the same pass; so a
frozen head costs two products a block, and nothing is computed twice. A trained head needs the finished softmax for its
own gradient, which backward computes again.

Three things make it fast and exact. Exponents are taken relative to the target's logit, so no running maximum is kept;
where that overflows, the pass is done again relative to the true maximum. The target's own share never runs through 16
bits: what is left of it is the whole gradient of a token that is predicted well. And in 16 bits, columns whose share of
no position's softmax so far exceeds NEGLIGIBLE are not columns of the second product, since each one's part of the
gradient is less than what rounding takes (as in Wijmans et al., Cut Your Losses, arXiv:2411.09009, which leaves out
2^-12). All of them together are more than that, and always in the same direction: a training that leaves them out
drifts away from an exact one. So one column stands for those of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

# Columns of the head that have logits at once; of a thousand positions in bfloat16, 8 MB.
BLOCK = 4096
# Columns whose weights are summed at once.
PIECE = 512
# The number of picked columns is a multiple of this: oneDNN writes code for every shape it has not met, and keeps half
# a megabyte for it.
PICKED_STEP = 256
# The smallest share of a softmax that has a column of its own in 16 bits.
NEGLIGIBLE = 2.0**-14
# Above this share of columns, picking them costs more than it saves.
WORTH_PICKING = 0.5


def cross_entropy_sum(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, *, soft_cap: float | None = None
) -> torch.Tensor:
    """The sum over positions of the negative log-likelihood in nats of each target, as a float32 scalar.

    hidden: (positions, width), of positions that have a target. head: (vocabulary, width), with or without gradient; it
    may have more bits than hidden. targets: (positions,), int64. soft_cap: logits are soft_cap * tanh(logits /
    soft_cap), as in Gemma 2.
    """
    result: torch.Tensor = _CrossEntropySum.apply(hidden, head, targets, soft_cap)
    return result


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, cap: float | None) -> Any:
        in_one_pass = hidden.requires_grad and not head.requires_grad
        hidden_part = _Head(hidden.detach(), head.detach(), targets, cap)
        passed = hidden_part.one_pass(hidden_part.of_targets, gradient=in_one_pass)
        if not torch.isfinite(passed.rest).all():
            passed = hidden_part.one_pass(hidden_part.maxima(), gradient=in_one_pass)
        losses = torch.log(passed.own + passed.rest) + passed.shift - hidden_part.of_targets
        if passed.gradient is not None:
            ctx.save_for_backward(passed.gradient)
        else:
            ctx.save_for_backward(hidden, head, targets, losses)
        ctx.in_one_pass, ctx.cap, ctx.dtype = in_one_pass, cap, hidden.dtype
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        if ctx.in_one_pass:
            (gradient,) = ctx.saved_tensors
            return (gradient * outer[0]).to(ctx.dtype), None, None, None
        hidden, head, targets, losses = ctx.saved_tensors
        again = _Head(hidden, head, targets, ctx.cap)
        of_hidden, of_head = again.gradients(losses, outer[0], of_head=ctx.needs_input_grad[1])
        return of_hidden.to(ctx.dtype) if ctx.needs_input_grad[0] else None, of_head, None, None


@dataclass(frozen=True, slots=True)
class _Pass:
    """Sums of exp(logit - shift), each (positions,): of the target, of all others; and the gradient of hidden."""

    shift: torch.Tensor
    own: torch.Tensor
    rest: torch.Tensor
    gradient: torch.Tensor | None


class _Head:
    """The products of one call. `exact` is the type that sums are kept in."""

    def __init__(self, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, cap: float | None):
        self.hidden, self.head, self.targets, self.cap = hidden, head, targets, cap
        self.exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self.positions = torch.arange(len(targets), device=targets.device)
        own_rows = head[targets].to(hidden.dtype).to(self.exact)
        self.of_targets, self.own_slope = self._capped((hidden.to(self.exact) * own_rows).sum(1))
        self._own_rows = own_rows
        # One buffer for the logits of every block: fresh memory costs more than the arithmetic on it.
        self._buffer = torch.empty(len(hidden), min(BLOCK, len(head)), dtype=hidden.dtype, device=hidden.device)

    def one_pass(self, wanted_shift: torch.Tensor, *, gradient: bool) -> _Pass:
        """wanted_shift: (positions,), what logits are taken relative to, as far as the type of `hidden` can say it."""
        shift = wanted_shift.to(self.hidden.dtype)
        own = torch.exp(self.of_targets - shift.to(self.exact))
        rest = torch.zeros_like(own)
        summed = torch.zeros(self.hidden.shape, dtype=self.exact, device=own.device) if gradient else None
        for start in range(0, len(self.head), BLOCK):
            rows = self.head[start : start + BLOCK].to(self.hidden.dtype)
            weights, slope = self._weights(rows, shift)
            self._leave_out_targets(weights, start)
            rest += self._sums(weights)
            if summed is not None:
                self._add(summed, weights if slope is None else weights.mul_(slope), rows, own + rest)
        if summed is not None:
            total = (own + rest).unsqueeze(1)
            left = (rest / total.squeeze(1)).unsqueeze(1)  # 1 - the target's share, without its rounding
            if self.own_slope is not None:
                left = left * self.own_slope.unsqueeze(1)
            summed.div_(total).sub_(left * self._own_rows)
        return _Pass(shift.to(self.exact), own, rest, summed)

    def gradients(
        self, losses: torch.Tensor, outer: torch.Tensor, *, of_head: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Of hidden, and of the head, which was not frozen; losses: (positions,) as the first pass found them."""
        log_total = losses + self.of_targets
        shift = log_total.to(self.hidden.dtype)
        scale = (torch.exp(shift.to(self.exact) - log_total) * outer).unsqueeze(1)  # makes weights the softmax
        scaled = (self.hidden.to(self.exact) * scale).to(self.hidden.dtype)
        summed = torch.zeros(self.hidden.shape, dtype=self.exact, device=scale.device)
        of_rows = torch.empty_like(self.head) if of_head else None
        for start in range(0, len(self.head), BLOCK):
            rows = self.head[start : start + BLOCK].to(self.hidden.dtype)
            weights, slope = self._weights(rows, shift)
            self._leave_out_targets(weights, start)
            weights = weights if slope is None else weights.mul_(slope)
            summed += weights @ rows
            if of_rows is not None:
                of_rows[start : start + BLOCK] = weights.T @ scaled
        # -expm1(-loss) is 1 - the target's share.
        left = (-torch.expm1(-losses) * outer).unsqueeze(1)
        if self.own_slope is not None:
            left = left * self.own_slope.unsqueeze(1)
        if of_rows is not None:
            of_rows.index_add_(0, self.targets, (-left * self.hidden.to(self.exact)).to(of_rows.dtype))
        return summed * scale - left * self._own_rows, of_rows

    def maxima(self) -> torch.Tensor:
        """The highest logit of each position."""
        found = self.of_targets.clone()
        for start in range(0, len(self.head), BLOCK):
            logits = self.hidden @ self.head[start : start + BLOCK].to(self.hidden.dtype).T
            found = torch.maximum(found, self._capped(logits.to(self.exact).amax(1))[0])
        return found

    def _weights(self, rows: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """exp(logit - shift) of a block, in the buffer, and the slope of the cap there."""
        logits = self._buffer[:, : len(rows)]
        if self.cap is None:
            return torch.addmm(-shift.unsqueeze(1), self.hidden, rows.T, out=logits).exp_(), None
        torch.mm(self.hidden, rows.T, out=logits)
        bent = logits.div_(self.cap).tanh_()
        slope = 1 - bent.square()
        return bent.mul_(self.cap).sub_(shift.unsqueeze(1)).exp_(), slope

    def _leave_out_targets(self, weights: torch.Tensor, start: int) -> None:
        here = (self.targets >= start) & (self.targets < start + weights.shape[1])
        weights[self.positions[here], self.targets[here] - start] = 0

    def _sums(self, weights: torch.Tensor) -> torch.Tensor:
        """Of each position. In 16 bits sums are made in 32 and rounded at their end: of short pieces, so that little is
        lost; asked for 32 bits, PyTorch would copy all weights first."""
        if weights.dtype == self.exact or weights.shape[1] % PIECE:
            return weights.sum(1, dtype=self.exact)
        return weights.unflatten(1, (-1, PIECE)).sum(2).sum(1, dtype=self.exact)

    def _add(self, summed: torch.Tensor, weights: torch.Tensor, rows: torch.Tensor, so_far: torch.Tensor) -> None:
        """Add weights @ rows, with one column for all that count for little; so_far: (positions,), the sums up to here,
        which only grow."""
        if weights.dtype in (torch.bfloat16, torch.float16):
            shares = weights.mul_((1 / so_far).to(weights.dtype).unsqueeze(1))
            counts = shares.amax(0) > NEGLIGIBLE
            columns = counts.nonzero().squeeze(1)
            if len(columns) < WORTH_PICKING * len(rows):
                others = (~counts).nonzero().squeeze(1)[: -(len(columns) + 1) % PICKED_STEP + 1]
                shares, rows = _picked(shares, rows, torch.cat((columns, others)))
            summed.addcmul_((shares @ rows).to(self.exact), so_far.unsqueeze(1))
        else:
            summed += weights @ rows

    def _capped(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits after the cap, and its slope there."""
        if self.cap is None:
            return logits, None
        bent = torch.tanh(logits / self.cap)
        return self.cap * bent, 1 - bent.square()


def _picked(shares: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """These columns of shares (positions, block) and of rows (block, width), but the last stands for all others: by
    their sum, and by the mean of their rows, each weighted by what it is to all positions together. So the gradient's
    sum over positions lacks none of them."""
    others = shares.new_ones(len(rows), 1)
    others[columns[:-1]] = 0
    weights = (shares.new_ones(1, len(shares)) @ shares).mul_(others.T)
    total = weights.sum(dtype=torch.float32).clamp_min(torch.finfo(torch.float32).tiny)
    picked, picked_rows = shares.index_select(1, columns), rows.index_select(0, columns)
    picked[:, -1:] = shares @ others
    picked_rows[-1:] = (weights @ rows) / total
    return picked, picked_rows
