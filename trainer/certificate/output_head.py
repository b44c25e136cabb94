"""Output head: turns hidden states into logits, in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from gemtune.families.configs.sections import language_model
from trainer.base_model import folder_contents
from trainer.certificate.files.weights import TrainedModel
from trainer.export.lora_weights import canonical_name
from trainer.new_tokens import embedding

# Tokens whose logits are computed at once, and positions whose logits are in memory at once. On a processor without
# AVX-512, products of so many rows of the head with states took half as long as one of states with the whole head.
TOKENS, POSITIONS = 1024, 64
# A head of up to this many bytes in float32 is converted once, instead of anew for every block of positions.
CONVERTED_UP_TO = 1 << 30


class OutputHead:
    """Output head of a model. weight: (vocabulary, width).

    cap: logits are cap · tanh(logits / cap), as in Gemma 2; None without a cap.
    """

    def __init__(self, weight: torch.Tensor, cap: float | None):
        weight = weight.detach()
        self._weight, self._cap = weight.float() if weight.numel() * 4 <= CONVERTED_UP_TO else weight, cap

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of (positions, width) hidden states."""
        hidden = hidden.to(self._weight.device).float()
        logits = hidden.new_empty(len(hidden), len(self._weight))
        with torch.no_grad():
            for block, of_block in zip(self._weight.split(TOKENS), logits.split(TOKENS, dim=1), strict=True):
                of_block.copy_((block.float() @ hidden.T).T)
        return (logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)).cpu()

    def blocks(self, hidden: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield logits of at most POSITIONS positions each."""
        for block in hidden.split(POSITIONS):
            yield self(block)

    def predictions(self, hidden: torch.Tensor, targets: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the targets' negative log-likelihoods and the first choices.

        Both are (positions,).
        """
        losses, choices, done = [], [], 0
        for logits in self.blocks(hidden):
            wanted_tokens = torch.tensor(targets[done : done + len(logits)], dtype=torch.int64)
            losses.append(torch.nn.functional.cross_entropy(logits, wanted_tokens, reduction="none"))
            choices.append(logits.argmax(1))
            done += len(logits)
        return torch.cat(losses), torch.cat(choices)


def heads_of(base: Path, adapter: Path | None) -> tuple[OutputHead, OutputHead | None]:
    """Return the heads of the trained model and of its base, from their files.

    The second one is None if all weights were trained.
    """
    config = folder_contents.config_of(base)
    trained = TrainedModel(base, adapter)
    by_name = {canonical_name(name): name for name in trained.names}
    is_tied = folder_contents.is_tied(config) or "lm_head" not in by_name
    name = by_name["embed_tokens"] if is_tied else by_name["lm_head"]
    cap = language_model(config).get("final_logit_softcapping")
    weight = trained.weight(name)
    head = OutputHead(weight.value, cap)
    if adapter is None:
        return head, None
    before = TrainedModel(base, None).weight(name).value
    new_tokens = embedding.read(adapter)
    before = before if new_tokens is None else new_tokens.extended(before)
    return head, OutputHead(before, cap) if weight.trained else head
