"""The language-model head and its loss in one pass over blocks of the vocabulary, with no logits kept.

Gemma's head has 262,144 columns: the logits of a thousand positions take a gigabyte, their gradient another. The loss
of a position, log(sum over j of exp(z_j - z_y)) for logits z and target y, is a sum that can be taken block by block
(as in the online softmax of Milakov & Gimelshein, arXiv:1805.02867). The gradient of the hidden states, the
softmax-weighted sum of the head's rows less the target's row, is another sum that runs along in the same pass; so a
frozen head costs two products a block, and nothing is computed twice. A trained head needs the finished softmax for its
own gradient, which backward computes again.

Three things make it fast and exact. Exponents are taken relative to the target's logit, so no running maximum is kept;
where that overflows, the pass is done again relative to the true maximum. The target's own share never runs through 16
bits: what is left of it is the whole gradient of a token that is predicted well. And in 16 bits, most columns are so
little to every position that one stands for all of them in the second product (`softmax_shares`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainer.model.softmax_shares import power_sums, shares, sums

# Columns of the head that have logits at once; of a thousand positions in bfloat16, 8 MB.
BLOCK = 4096


def cross_entropy_sum(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, *, soft_cap: float | None = None
) -> torch.Tensor:
    """The sum over positions of the negative log-likelihood in nats of each target, as a float32 scalar.

    hidden: (positions, width), of positions that have a target. head: (vocabulary, width), with or without gradient; it
    may have more bits than hidden. targets: (positions,), int64. soft_cap: logits are soft_cap * tanh(logits /
    soft_cap), as in Gemma 2.
    """
    losses, _ = _CrossEntropy.apply(hidden, head, targets, soft_cap, 1.0, False)
    result: torch.Tensor = losses.sum()
    return result


def log_probabilities(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, *, soft_cap: float | None = None,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Of each position the log-likelihood of its target, and the entropy of its softmax, in nats, which has no
    gradient: (positions,) in float32. The operands are those of `cross_entropy_sum`; logits are divided by the
    temperature, after the cap."""
    losses, entropies = _CrossEntropy.apply(hidden, head, targets, soft_cap, temperature, True)
    return -losses, entropies


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, cap: float | None,
        temperature: float, wants_entropies: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
        """The losses of all positions, and their entropies or None."""
        in_one_pass = hidden.requires_grad and not head.requires_grad
        part = _Head(hidden.detach(), head.detach(), targets, cap, temperature)
        passed = part.one_pass(part.of_targets, gradient=in_one_pass, entropies=wants_entropies)
        if not torch.isfinite(passed.rest).all():
            passed = part.one_pass(part.maxima(), gradient=in_one_pass, entropies=wants_entropies)
        losses = torch.log(passed.own + passed.rest) + passed.shift - part.of_targets
        if passed.gradient is not None:
            ctx.save_for_backward(passed.gradient)
        else:
            ctx.save_for_backward(hidden, head, targets, losses)
        ctx.in_one_pass, ctx.how, ctx.dtype = in_one_pass, (cap, temperature), hidden.dtype
        if passed.entropies is not None:
            ctx.mark_non_differentiable(passed.entropies)
        return losses, passed.entropies

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.in_one_pass:
            (gradient,) = ctx.saved_tensors
            return (gradient * outer[0].unsqueeze(1)).to(ctx.dtype), *[None] * 5
        hidden, head, targets, losses = ctx.saved_tensors
        again = _Head(hidden, head, targets, *ctx.how)
        of_hidden, of_head = again.gradients(losses, outer[0], of_head=ctx.needs_input_grad[1])
        return of_hidden.to(ctx.dtype) if ctx.needs_input_grad[0] else None, of_head, *[None] * 4


@dataclass(frozen=True, slots=True)
class _Pass:
    """Sums of exp(logit - shift), each (positions,): of the target, and of all others. gradient: of hidden."""

    shift: torch.Tensor
    own: torch.Tensor
    rest: torch.Tensor
    gradient: torch.Tensor | None
    entropies: torch.Tensor | None


class _Head:
    """The products of one call. `exact` is the type that sums are kept in."""

    def __init__(
        self, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, cap: float | None, temperature: float
    ):
        self.hidden, self.head, self.targets, self.cap, self.cold = hidden, head, targets, cap, 1 / temperature
        self.exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self.positions = torch.arange(len(targets), device=targets.device)
        own_rows = head[targets].to(hidden.dtype).to(self.exact)
        self.of_targets, self.own_slope = self._capped((hidden.to(self.exact) * own_rows).sum(1))
        self._own_rows = own_rows
        # One buffer for the logits of every block: fresh memory costs more than the arithmetic on it.
        self._buffer = torch.empty(len(hidden) * min(BLOCK, len(head)), dtype=hidden.dtype, device=hidden.device)

    def one_pass(self, wanted_shift: torch.Tensor, *, gradient: bool, entropies: bool) -> _Pass:
        """wanted_shift: (positions,), what logits are taken relative to, as far as the type of `hidden` can say it."""
        shift = wanted_shift.to(self.hidden.dtype)
        own = torch.exp(self.of_targets - shift.to(self.exact))
        rest, along = torch.zeros_like(own), own * (self.of_targets - shift.to(self.exact))
        summed = torch.zeros(self.hidden.shape, dtype=self.exact, device=own.device) if gradient else None
        for start in range(0, len(self.head), BLOCK):
            rows = self.head[start : start + BLOCK].to(self.hidden.dtype)
            logits, slope = self._logits(rows, start, shift)
            if entropies:
                powers, along_here = power_sums(logits)
                along += along_here
            if summed is None:
                rest += powers if entropies else sums(logits.exp_())
            elif self.hidden.dtype in (torch.bfloat16, torch.float16):
                found = shares(logits, own, rest, slope)
                summed.addcmul_(found.times(rows).to(self.exact), (own + rest).unsqueeze(1))
            else:
                weights = logits.exp_()
                rest += sums(weights)
                summed += (weights if slope is None else weights.mul_(slope)) @ rows
        if summed is not None:
            total = (own + rest).unsqueeze(1)
            left = (rest / total.squeeze(1)).unsqueeze(1)  # 1 - the target's share, without its rounding
            if self.own_slope is not None:
                left = left * self.own_slope.unsqueeze(1)
            summed.div_(total).sub_(left * self._own_rows).mul_(self.cold)
        spread = torch.log(own + rest) - along / (own + rest) if entropies else None
        return _Pass(shift.to(self.exact), own, rest, summed, spread)

    def gradients(
        self, losses: torch.Tensor, outer: torch.Tensor, *, of_head: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Of hidden, and of the head, which was not frozen. losses: (positions,) as the first pass found them. outer:
        their gradients."""
        outer = outer * self.cold
        log_total = losses + self.of_targets
        shift = log_total.to(self.hidden.dtype)
        scale = (torch.exp(shift.to(self.exact) - log_total) * outer).unsqueeze(1)  # makes weights the softmax
        scaled = (self.hidden.to(self.exact) * scale).to(self.hidden.dtype)
        summed = torch.zeros(self.hidden.shape, dtype=self.exact, device=scale.device)
        of_rows = torch.empty_like(self.head) if of_head else None
        for start in range(0, len(self.head), BLOCK):
            rows = self.head[start : start + BLOCK].to(self.hidden.dtype)
            logits, slope = self._logits(rows, start, shift)
            weights = logits.exp_() if slope is None else logits.exp_().mul_(slope)
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

    def _logits(self, rows: torch.Tensor, start: int, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Of a block, less the shift, in the buffer, and the slope of the cap there. The targets' are -inf."""
        logits, slope = self._buffer[: len(self.hidden) * len(rows)].view(-1, len(rows)), None
        if self.cap is None:
            torch.addmm(-shift.unsqueeze(1), self.hidden, rows.T, alpha=self.cold, out=logits)
        else:
            torch.mm(self.hidden, rows.T, out=logits)
            bent = logits.div_(self.cap).tanh_()
            slope = 1 - bent.square()
            bent.mul_(self.cap * self.cold).sub_(shift.unsqueeze(1))
        here = (self.targets >= start) & (self.targets < start + len(rows))
        logits[self.positions[here], self.targets[here] - start] = -torch.inf
        return logits, slope

    def _capped(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits after the cap, divided by the temperature, and the cap's slope there."""
        if self.cap is None:
            return self.cold * logits, None
        bent = torch.tanh(logits / self.cap)
        return self.cold * self.cap * bent, 1 - bent.square()
