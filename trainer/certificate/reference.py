"""Reference: what the trained model said on the compared rows.

The train step records it, so that an export is compared with the model that was trained, and not with whatever is
loaded later. Kept are last hidden states, which are exact and take a thousandth of the memory of logits; the output
head, which turns them into logits, is in files whose digests are checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.certificate.held_out_rows import ComparisonRows

if TYPE_CHECKING:
    import torch

ROWS, STATES = "rows.json", "states.safetensors"
RECORDED = "as the trained model computed them at the end of training"
# Number of sample answers, and tokens per answer. They are for people to look at; no limit depends on them.
ANSWERS, ANSWER_TOKENS = 2, 16


@dataclass(frozen=True, slots=True)
class RowStates:
    """One row as the trained model and the base model compute it, by position.

    hidden: (positions, width), of the trained model. base: the same of the base model; None if all weights were
    trained, since then the output head changed as well. base_loss, base_choice: (positions,), the negative
    log-likelihood of the target and the most likely token under the base model; None if it was not computed.
    """

    hidden: torch.Tensor
    base: torch.Tensor | None
    base_loss: torch.Tensor | None
    base_choice: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Reference:
    """Rows, prompts, and what the trained model said.

    answers: the first tokens of its answers to the first prompts. origin: when it was computed, in words.
    """

    rows: ComparisonRows
    states: Sequence[RowStates]
    answers: Sequence[list[int]]
    origin: str


def write(reference: Reference, folder: Path) -> None:
    """Write a reference to a new folder."""
    from safetensors.torch import save_file

    folder.mkdir()
    stored = {"rows": reference.rows.to_json(), "answers": list(reference.answers), "origin": reference.origin}
    (folder / ROWS).write_text(json.dumps(stored, ensure_ascii=False))
    tensors = {
        f"{index}.{name}": tensor.contiguous()
        for index, row in enumerate(reference.states)
        for name in RowStates.__slots__
        if (tensor := getattr(row, name)) is not None
    }
    save_file(tensors, folder / STATES)


def read(folder: Path) -> Reference:
    """Read a reference."""
    from safetensors.torch import load_file

    stored, tensors = json.loads((folder / ROWS).read_text()), load_file(folder / STATES)
    rows = ComparisonRows.read(stored["rows"])
    states = [
        RowStates(
            tensors[f"{index}.hidden"],
            tensors.get(f"{index}.base"),
            tensors.get(f"{index}.base_loss"),
            tensors.get(f"{index}.base_choice"),
        )
        for index in range(len(rows.rows))
    ]
    return Reference(rows, states, stored["answers"], stored["origin"])
