"""Reference: what the trained model said on the compared rows.

The train step records it, so that an export is compared with the model that was trained, and not with whatever is
loaded later. Kept are last hidden states, which are exact and take a thousandth of the memory of logits; the output
head, which turns them into logits, is in files whose digests are checked.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.certificate.held_out_rows import ComparisonRows

if TYPE_CHECKING:
    import torch

ROWS, STATES = "rows.json", "states.safetensors"
# Names of a row's tensors in the file: of its states, and the beginning of its inputs' names.
STATE_NAMES, INPUTS = ("hidden", "base", "base_loss", "base_choice"), "inputs."
RECORDED = "as the trained model computed them at the end of training"
# Number of sample answers, and tokens per answer. They are for people to look at; no limit depends on them.
ANSWERS, ANSWER_TOKENS = 2, 16


@dataclass(frozen=True, slots=True)
class RowStates:
    """One row as the trained model and the base model compute it, by position.

    hidden: (positions, width), of the trained model. base: the same of the base model; None if all weights were
    trained, since then the output head changed as well. base_loss, base_choice: (positions,), the negative
    log-likelihood of the target and the most likely token under the base model; None if it was not computed. inputs:
    by name, what the model was given besides the tokens, such as the pixels of the row's pictures.
    """

    hidden: torch.Tensor
    base: torch.Tensor | None
    base_loss: torch.Tensor | None
    base_choice: torch.Tensor | None
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all of them by name; inputs have `inputs.` before theirs."""
        states = {name: getattr(self, name) for name in STATE_NAMES}
        inputs = {f"{INPUTS}{name}": tensor for name, tensor in self.inputs.items()}
        return {name: tensor for name, tensor in (states | inputs).items() if tensor is not None}

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> RowStates:
        """Return the states whose `tensors` these are."""
        hidden, base, base_loss, base_choice = (tensors.get(name) for name in STATE_NAMES)
        assert hidden is not None, "all rows have states"
        inputs = {name.removeprefix(INPUTS): tensors[name] for name in tensors if name.startswith(INPUTS)}
        return cls(hidden, base, base_loss, base_choice, inputs)


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
        for name, tensor in row.tensors().items()
    }
    save_file(tensors, folder / STATES)


def read(folder: Path) -> Reference:
    """Read a reference."""
    from safetensors.torch import load_file

    stored, tensors = json.loads((folder / ROWS).read_text()), load_file(folder / STATES)
    rows = ComparisonRows.read(stored["rows"])
    by_row: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        row, _, part = name.partition(".")
        by_row[row][part] = tensor
    states = [RowStates.of(by_row[str(index)]) for index in range(len(rows.rows))]
    return Reference(rows, states, stored["answers"], stored["origin"])
