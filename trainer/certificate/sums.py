"""Sums over positions of what the certificate measures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# Two tokens whose log-probabilities differ by less, in nats, are almost equally likely: chance decides which is first.
TIE = 0.1
# Below this mean variance per position of what training changed in log-probabilities, there is nothing to lose.
MIN_CHANGE = 1e-8
# Logit of tokens that are never generated. It is finite, as differences of it have to be.
SUPPRESSED = -1e4


@dataclass(frozen=True, slots=True)
class Block:
    """Logits of some positions, (positions, vocabulary) in float32.

    base: of the base model; None if all weights were trained. targets: (positions,). base_loss, base_choice:
    (positions,), see `reference.RowStates`.
    """

    trained: torch.Tensor
    exported: torch.Tensor
    base: torch.Tensor | None
    targets: torch.Tensor
    base_loss: torch.Tensor | None
    base_choice: torch.Tensor | None


@dataclass
class Sums:
    """Sums over positions; all are of float64.

    suppressed: tokens that are never generated, which do not count. kl: KL divergence KL(trained || exported), in nats.
    same: positions with the same most likely token. agreeing: the same, or with tokens that are almost equally likely
    to the trained model. changed: positions where the base model's
    first choice is clearly less likely to the trained model than its own; changed_agreeing: those of them where the
    export agrees with it. trained_loss, exported_loss, base_loss: negative log-likelihood of the
    targets, in nats. lost_squares: squares of exported less trained loss. change: Var(t), where t are the
    log-probabilities of the trained model less those of the base model. kept_change: Cov(t, e), where e are those of
    the export less those of the base model. Both are over the vocabulary, weighted with the trained model's
    probabilities, so kept_change / change is the coefficient of the regression of e on t. trained_from_base,
    exported_from_base: KL(trained || base) and KL(exported || base).
    """

    suppressed: Sequence[int] = ()
    positions: int = 0
    kl: float = 0.0
    same: int = 0
    agreeing: int = 0
    changed: int = 0
    changed_agreeing: int = 0
    trained_loss: float = 0.0
    exported_loss: float = 0.0
    base_loss: float = 0.0
    lost_squares: float = 0.0
    change: float = 0.0
    kept_change: float = 0.0
    trained_from_base: float = 0.0
    exported_from_base: float = 0.0
    with_base: bool = True

    def add(self, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        """Add a block; return where each model's first choice is the target.

        A GGUF file may have fewer columns than the model, as it leaves out those without a token.
        """
        columns = min(block.trained.shape[1], block.exported.shape[1])
        p, q = (self._log_softmax(logits[:, :columns]) for logits in (block.trained, block.exported))
        trained_choice, exported_choice = p.argmax(1), q.argmax(1)
        rows = torch.arange(len(p))
        trained_loss, exported_loss = (-each[rows, block.targets].double() for each in (p, q))
        probabilities, difference = p.exp(), p - q
        divergences = _row_sums(probabilities, difference)
        self.positions += len(p)
        self.kl += float(divergences.double().sum())
        agreeing = _agreeing(p, q)
        self.same += int((trained_choice == exported_choice).sum())
        self.agreeing += int(agreeing.sum())
        self.trained_loss += float(trained_loss.sum())
        self.exported_loss += float(exported_loss.sum())
        self.lost_squares += float((exported_loss - trained_loss).square().sum())
        if block.base_loss is None or block.base_choice is None:
            self.with_base = False
        else:
            base_choice = block.base_choice.clamp(max=columns - 1)
            changed = p[rows, trained_choice] - p[rows, base_choice] >= TIE
            self.base_loss += float(block.base_loss.double().sum())
            self.changed += int(changed.sum())
            self.changed_agreeing += int((changed & agreeing).sum())
        if block.base is not None:
            b = self._log_softmax(block.base[:, :columns])
            self.exported_from_base += float(_row_sums(q.exp(), q - b).double().sum())
            # The mean of a change, weighted with the trained model's probabilities, is a divergence.
            change = p.sub_(b)
            from_base = _row_sums(probabilities, change)
            self.trained_from_base += float(from_base.double().sum())
            change -= from_base[:, None]
            exported_change = change - difference.sub_(divergences[:, None])
            self.change += float(_row_sums(probabilities, change.square()).double().sum())
            self.kept_change += float(_row_sums(probabilities, change.mul_(exported_change)).double().sum())
        return trained_choice == block.targets, exported_choice == block.targets

    def _log_softmax(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(without(self.suppressed, logits), dim=1)

    def metrics(self) -> dict[str, Any]:
        """Return means per position; None where there is nothing to measure."""
        count = max(1, self.positions)
        lost = (self.exported_loss - self.trained_loss) / count
        variance = max(0.0, self.lost_squares / count - lost * lost)
        has_base = self.with_base and self.positions > 0
        with_change = self.change > MIN_CHANGE * count
        return {
            "positions": self.positions,
            "mean_kl": self.kl / count,
            "top1_agreement": self.same / count,
            "agreement": self.agreeing / count,
            "trained_loss": self.trained_loss / count,
            "exported_loss": self.exported_loss / count,
            "base_loss": self.base_loss / count if has_base else None,
            "loss_error": math.sqrt(variance / count),
            "changed": self.changed if has_base else 0,
            "changed_agreement": self.changed_agreeing / self.changed if has_base and self.changed else None,
            "change_kept": self.kept_change / self.change if with_change else None,
            "trained_from_base": self.trained_from_base / count if with_change else None,
            "exported_from_base": self.exported_from_base / count if with_change else None,
        }


def noise_of(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], suppressed: Sequence[int] = ()) -> tuple[float, float]:
    """Return the mean KL(first || second) of pairs of logits, and agreement.

    suppressed: tokens that do not count. The agreement is that of `Sums.agreeing`, as a share of the positions.
    """
    total, agreeing, count = 0.0, 0, 0
    for first, second in pairs:
        columns = min(first.shape[1], second.shape[1])
        p, q = (torch.log_softmax(without(suppressed, each[:, :columns]), dim=1) for each in (first, second))
        total += float(_row_sums(p.exp(), p - q).double().sum())
        agreeing += int(_agreeing(p, q).sum())
        count += len(p)
    return total / max(1, count), agreeing / max(1, count)


def deviations(first: torch.Tensor, second: torch.Tensor, suppressed: Sequence[int] = ()) -> torch.Tensor:
    """Return by position how far logits deviate, as a share of their variance.

    Var(second - first) / Var(first) over the vocabulary, (positions,). first, second: logits. suppressed: tokens that
    do not count.
    """
    counts = torch.ones(min(first.shape[1], second.shape[1]), dtype=torch.bool)
    counts[[token for token in suppressed if token < len(counts)]] = False
    first, second = (each[:, : len(counts)][:, counts] for each in (first, second))
    return (second - first).var(1) / first.var(1).clamp(min=1e-30)


def without(suppressed: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    """Return logits in which suppressed tokens have the same one everywhere.

    llama.cpp gives them minus infinity, and transformers suppresses them in generation only.
    """
    if not suppressed:
        return logits
    changed = logits.clone()
    changed[:, [token for token in suppressed if token < logits.shape[1]]] = SUPPRESSED
    return changed


def _agreeing(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return where the first choice of q is the first one of p, or a tie."""
    rows = torch.arange(len(p))
    return p.max(1).values - p[rows, q.argmax(1)] < TIE


def _row_sums(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of each row. Both are (positions, vocabulary)."""
    sums: torch.Tensor = torch.linalg.vecdot(weights, values)
    return sums
