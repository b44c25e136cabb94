"""Cross-entropy of the language-model head, block by block, without logits.

Gemma's head has 262,144 rows, one per token of the vocabulary: the logits of a thousand positions take a gigabyte in 32
bits, and so does their gradient. With hidden state h, head rows w_j, soft cap c, temperature T and target y,

    z_j = cap(h w_j) / T,  cap(a) = c tanh(a / c) or a,  loss = log(sum_j exp(z_j - z_y)),  p = softmax(z)

    d loss / dh   = ((sum over j != y of p_j cap'_j w_j) - (1 - p_y) cap'_y w_y) / T
    d loss / dw_j = (p_j - [j = y]) cap'_j h / T

where cap'_j is the cap's derivative at h w_j, 1 - tanh^2(h w_j / c) or 1. The sums over j are taken block by block (the
online softmax of Milakov & Gimelshein, arXiv:1805.02867). A frozen head accumulates the gradient of h in the same pass:
two products per block, and nothing is computed twice. A trained head needs the complete softmax for its own gradient,
so backward recomputes the logits.

Three things make it fast and exact. Exponents are relative to the target's logit, so no running maximum is needed;
where they overflow, the pass is repeated relative to the true maximum. The target's own probability is never rounded to
16 bits: 1 - p_y is the whole gradient of a token that is predicted well. And in 16 bits, most columns are so small at
every position that they can be merged into one in the second product (`softmax_shares`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainer.model.row_gradients import TrainedRows, with_row_gradients
from trainer.model.softmax_shares import compute_shares, exp_sums, row_sums

# Rows of the head whose logits exist at once; with a thousand positions in bfloat16 they take 8 MB.
BLOCK = 4096


def cross_entropy_sum(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    *,
    soft_cap: float | None = None,
    rows: TrainedRows | None = None,
) -> torch.Tensor:
    """Return the sum of the targets' negative log-likelihoods, in nats.

    hidden: (positions, width), of positions that have a target. head: (vocabulary, width), frozen or trained; its type
    may be wider than that of hidden. targets: (positions,), int64. soft_cap: logits become soft_cap * tanh(logits /
    soft_cap), as in Gemma 2; None for no cap. rows: those of a frozen head that are trained; None for none. Returns a
    scalar in float32 (float64 if hidden is).
    """
    losses: torch.Tensor
    losses, _ = _CrossEntropy.apply(hidden, head, targets, soft_cap, 1.0, False)
    if rows is not None:
        losses = with_row_gradients(losses, hidden, head, targets, rows, soft_cap=soft_cap, temperature=1.0)
    return losses.sum()


def log_probabilities(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    *,
    soft_cap: float | None = None,
    temperature: float = 1.0,
    rows: TrainedRows | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the targets' log-likelihoods and the entropies, in nats.

    Both are (positions,) in float32 (float64 if hidden is); the entropy is that of each position's softmax, and has no
    gradient. Arguments are those of `cross_entropy_sum`; logits are divided by the temperature after the cap.
    """
    losses, entropies = _CrossEntropy.apply(hidden, head, targets, soft_cap, temperature, True)
    if rows is not None:
        losses = with_row_gradients(losses, hidden, head, targets, rows, soft_cap=soft_cap, temperature=temperature)
    return -losses, entropies


class _CrossEntropy(torch.autograd.Function):
    """Losses of all positions, differentiable in hidden states and head.

    It replaces `lm_head` followed by `torch.nn.functional.cross_entropy`, which store all logits and their gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        targets: torch.Tensor,
        soft_cap: float | None,
        temperature: float,
        with_entropies: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return each position's loss, and entropy or None; both (positions,).

        Saves the gradient of hidden if the head is frozen, else the arguments.
        """
        in_one_pass = hidden.requires_grad and not head.requires_grad
        product = _HeadProduct(hidden.detach(), head.detach(), targets, soft_cap, temperature)
        passed = product.one_pass(product.target_logits, gradient=in_one_pass, entropies=with_entropies)
        if not torch.isfinite(passed.other_exp_sum).all():
            passed = product.one_pass(product.max_logits(), gradient=in_one_pass, entropies=with_entropies)
        losses = torch.log(passed.target_exp + passed.other_exp_sum) + passed.shift - product.target_logits
        if passed.grad_hidden is not None:
            ctx.save_for_backward(passed.grad_hidden)
        else:
            ctx.save_for_backward(hidden, head, targets, losses)
        ctx.in_one_pass, ctx.cap_and_temperature, ctx.dtype = in_one_pass, (soft_cap, temperature), hidden.dtype
        if passed.entropies is not None:
            ctx.mark_non_differentiable(passed.entropies)
        return losses, passed.entropies

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of hidden and, if it is trained, of the head.

        They are (positions, width) and (vocabulary, width), in the types of both. grad_outputs: the gradient of each
        loss (positions,), by which the derivatives in the module's docstring are multiplied.
        """
        if ctx.in_one_pass:
            (grad_hidden,) = ctx.saved_tensors
            return (grad_hidden * grad_outputs[0].unsqueeze(1)).to(ctx.dtype), *[None] * 5
        hidden, head, targets, losses = ctx.saved_tensors
        product = _HeadProduct(hidden, head, targets, *ctx.cap_and_temperature)
        grad_hidden, grad_head = product.gradients(losses, grad_outputs[0], of_head=ctx.needs_input_grad[1])
        return grad_hidden.to(ctx.dtype) if ctx.needs_input_grad[0] else None, grad_head, *[None] * 4


@dataclass(frozen=True, slots=True)
class _Pass:
    """The results of one pass over the head.

    shift: (positions,), what exponents are relative to. target_exp, other_exp_sum: (positions,), exp(z_y - shift), and
    the sum of exp(z_j - shift) over all other j. grad_hidden: (positions, width), of each position's loss; None if it
    was not asked for. entropies: (positions,) or None. All are in float32, or float64 if hidden is.
    """

    shift: torch.Tensor
    target_exp: torch.Tensor
    other_exp_sum: torch.Tensor
    grad_hidden: torch.Tensor | None
    entropies: torch.Tensor | None


class _HeadProduct:
    """The product of hidden states with the head, block by block.

    sum_dtype: the type of all sums, float32 or float64. target_logits: (positions,), z_y. The targets' logits are
    computed on their own, in sum_dtype, and count as -inf in the blocks.
    """

    def __init__(
        self,
        hidden: torch.Tensor,
        head: torch.Tensor,
        targets: torch.Tensor,
        soft_cap: float | None,
        temperature: float,
    ):
        """Compute the targets' logits.

        Arguments are those of `log_probabilities`.
        """
        self.hidden, self.head, self.targets = hidden, head, targets
        self.soft_cap, self.inverse_temperature = soft_cap, 1 / temperature
        self.sum_dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self.positions = torch.arange(len(targets), device=targets.device)
        target_rows = head[targets].to(hidden.dtype).to(self.sum_dtype)
        self.target_logits, self.target_slope = self._capped((hidden.to(self.sum_dtype) * target_rows).sum(1))
        self._target_rows = target_rows
        # One buffer for the logits of every block: fresh memory costs more than the arithmetic on it.
        self._buffer = torch.empty(len(hidden) * min(BLOCK, len(head)), dtype=hidden.dtype, device=hidden.device)

    def one_pass(self, approximate_shift: torch.Tensor, *, gradient: bool, entropies: bool) -> _Pass:
        """Sum all exponentials; on request also return gradient and entropies.

        approximate_shift: (positions,), what exponents are relative to, once rounded to the type of hidden, which the
        logits have. With x_j = z_j - shift and Z = sum_j exp(x_j), the entropy is log(Z) - sum_j(x_j exp(x_j)) / Z.
        """
        shift = approximate_shift.to(self.hidden.dtype)
        target_exp = torch.exp(self.target_logits - shift.to(self.sum_dtype))
        other_exp_sum = torch.zeros_like(target_exp)
        weighted_sum = target_exp * (self.target_logits - shift.to(self.sum_dtype))
        grad_hidden = None
        if gradient:
            grad_hidden = torch.zeros(self.hidden.shape, dtype=self.sum_dtype, device=target_exp.device)
        for start in range(0, len(self.head), BLOCK):
            rows = self.head[start : start + BLOCK].to(self.hidden.dtype)
            logits, slope = self._logits(rows, start, shift)
            if entropies:
                block_exp_sum, block_weighted_sum = exp_sums(logits)
                weighted_sum += block_weighted_sum
            if grad_hidden is None:
                other_exp_sum += block_exp_sum if entropies else row_sums(logits.exp_())
            elif self.hidden.dtype in (torch.bfloat16, torch.float16):
                shares = compute_shares(logits, target_exp, other_exp_sum, slope)
                # Shares are relative to the sum so far, which grows with every block.
                exp_sum_so_far = (target_exp + other_exp_sum).unsqueeze(1)
                grad_hidden.addcmul_(shares.matmul(rows).to(self.sum_dtype), exp_sum_so_far)
            else:
                weights = logits.exp_()
                other_exp_sum += row_sums(weights)
                grad_hidden += (weights if slope is None else weights.mul_(slope)) @ rows
        if grad_hidden is not None:
            total = (target_exp + other_exp_sum).unsqueeze(1)
            remainder = (other_exp_sum / total.squeeze(1)).unsqueeze(1)  # 1 - p_y, without the rounding of p_y
            if self.target_slope is not None:
                remainder = remainder * self.target_slope.unsqueeze(1)
            grad_hidden.div_(total).sub_(remainder * self._target_rows).mul_(self.inverse_temperature)
        entropy = None
        if entropies:
            entropy = torch.log(target_exp + other_exp_sum) - weighted_sum / (target_exp + other_exp_sum)
        return _Pass(shift.to(self.sum_dtype), target_exp, other_exp_sum, grad_hidden, entropy)

    def gradients(
        self, losses: torch.Tensor, grad_losses: torch.Tensor, *, of_head: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the gradients of hidden, and of the head or None.

        losses: (positions,), from the forward pass; they give sum_j exp(z_j), so one more pass has the final softmax.
        grad_losses: (positions,), by which the derivatives in the module's docstring are multiplied. The gradient of
        hidden is (positions, width) in sum_dtype, that of the head (vocabulary, width) in its type.
        """
        grad_losses = grad_losses * self.inverse_temperature
        log_total = losses + self.target_logits  # log(sum_j exp(z_j))
        shift = log_total.to(self.hidden.dtype)
        # exp(z_j - shift) * exp(shift - log_total) is p_j: the second factor corrects the rounding of the shift.
        scale = (torch.exp(shift.to(self.sum_dtype) - log_total) * grad_losses).unsqueeze(1)
        scaled_hidden = (self.hidden.to(self.sum_dtype) * scale).to(self.hidden.dtype)
        grad_hidden = torch.zeros(self.hidden.shape, dtype=self.sum_dtype, device=scale.device)
        grad_head = torch.empty_like(self.head) if of_head else None
        for start in range(0, len(self.head), BLOCK):
            rows = self.head[start : start + BLOCK].to(self.hidden.dtype)
            logits, slope = self._logits(rows, start, shift)
            weights = logits.exp_() if slope is None else logits.exp_().mul_(slope)
            grad_hidden += weights @ rows
            if grad_head is not None:
                grad_head[start : start + BLOCK] = weights.T @ scaled_hidden
        remainder = (-torch.expm1(-losses) * grad_losses).unsqueeze(1)  # 1 - p_y is -expm1(-loss)
        if self.target_slope is not None:
            remainder = remainder * self.target_slope.unsqueeze(1)
        if grad_head is not None:
            of_targets = (-remainder * self.hidden.to(self.sum_dtype)).to(grad_head.dtype)
            grad_head.index_add_(0, self.targets, of_targets)
        return grad_hidden * scale - remainder * self._target_rows, grad_head

    def max_logits(self) -> torch.Tensor:
        """Return the highest logit of each position: (positions,)."""
        highest = self.target_logits.clone()
        for start in range(0, len(self.head), BLOCK):
            logits = self.hidden @ self.head[start : start + BLOCK].to(self.hidden.dtype).T
            highest = torch.maximum(highest, self._capped(logits.to(self.sum_dtype).amax(1))[0])
        return highest

    def _logits(self, rows: torch.Tensor, start: int, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return z_j - shift for a block of the head, and cap' or None.

        rows: (block, width), the head's rows from `start` on, in the type of hidden. Both results are (positions,
        block), in that type; the first is a view of the buffer. The targets' entries are -inf.
        """
        logits, slope = self._buffer[: len(self.hidden) * len(rows)].view(-1, len(rows)), None
        if self.soft_cap is None:
            torch.addmm(-shift.unsqueeze(1), self.hidden, rows.T, alpha=self.inverse_temperature, out=logits)
        else:
            torch.mm(self.hidden, rows.T, out=logits)
            tanh = logits.div_(self.soft_cap).tanh_()
            slope = 1 - tanh.square()
            tanh.mul_(self.soft_cap * self.inverse_temperature).sub_(shift.unsqueeze(1))
        in_block = (self.targets >= start) & (self.targets < start + len(rows))
        logits[self.positions[in_block], self.targets[in_block] - start] = -torch.inf
        return logits, slope

    def _capped(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return logits capped and divided by the temperature, and cap'."""
        if self.soft_cap is None:
            return self.inverse_temperature * logits, None
        tanh = torch.tanh(logits / self.soft_cap)
        return self.inverse_temperature * self.soft_cap * tanh, 1 - tanh.square()
