"""Log-probabilities for TRL's preference trainers, from our loss head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Protocol

import torch
from trl.trainer.utils import FusedCausalLMOutput

from trainer.base_model.language_model import unwrap
from trainer.rows.encoded import UNTRAINED
from trainer.training.preference.scores import Scores
from trainer.training.reinforcement import completion_log_probabilities

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel

# Metrics that TRL computes from logits, which the loss head does not store.
NOT_COMPUTED = ("logits/chosen", "logits/rejected", "mean_token_accuracy")


class ScoringTrainer(Protocol):
    """A trainer that TRL lets ask its model for log-probabilities.

    scores: during an evaluation, what collects the log-probabilities, or returns them instead of a model.
    """

    model: LanguageModel
    compute_dtype: torch.dtype
    scores: Scores | None


def score_with_loss_head(trainer: ScoringTrainer) -> None:
    """Make the model answer TRL's calls for log-probabilities by our head.

    TRL calls the model with `fused_lm_head`. Other calls, and those for a mixture of experts' router logits, go to the
    original forward.
    """
    base: Any = unwrap(trainer.model)
    base.forward = update_wrapper(partial(_forward, trainer, base.forward), base.forward)


def _forward(
    trainer: ScoringTrainer,
    original: Callable[..., Any],
    *args: Any,
    fused_lm_head: bool = False,
    labels: torch.Tensor | None = None,
    **inputs: Any,
) -> Any:
    """Replace the base model's forward; see `score_with_loss_head`.

    labels: (rows, positions), the tokens whose log-probabilities are needed, UNTRAINED elsewhere. Returns log_probs and
    entropy as (rows, positions - 1) in float32.
    """
    if not fused_lm_head or labels is None or inputs.get("output_router_logits"):
        return original(*args, fused_lm_head=fused_lm_head, labels=labels, **inputs)
    inputs = {name: value for name, value in inputs.items() if name != "use_cache"}
    logps, entropies = _score(trainer, inputs, (labels != UNTRAINED).long())
    unknown = torch.zeros_like(logps)  # for NOT_COMPUTED
    return FusedCausalLMOutput(log_probs=logps, entropy=entropies, mean_logits=unknown, is_top1=unknown.bool())


def _score(trainer: ScoringTrainer, inputs: Mapping[str, Any], completion_mask: torch.Tensor) -> torch.Tensor:
    """Return log-probability and entropy of each completion token.

    inputs: of the model. completion_mask: (rows, positions), 1 at completion tokens. Returns (2, rows, positions - 1),
    0 outside of completions, see `completion_log_probabilities`.
    """
    if trainer.scores is not None and trainer.scores.is_replayed:
        return trainer.scores.next()
    scores = torch.stack(completion_log_probabilities(trainer.model, inputs, completion_mask, trainer.compute_dtype))
    if trainer.scores is not None:
        trainer.scores.add(completion_mask, scores)
    return scores
