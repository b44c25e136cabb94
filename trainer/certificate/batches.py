"""Batches of compared rows.

A product with the whole output head takes almost as long for a few positions as for many, because the 262,144 rows of
Gemma's have to be read from memory. So the positions of several rows are multiplied with it at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from trainer.certificate.held_out_rows import Row
from trainer.certificate.output_head import OutputHead
from trainer.certificate.reference import STATE_NAMES, RowStates

# Positions of a batch, unless a single row has more. Each one takes 11 MB: a dozen numbers per token of the vocabulary.
POSITIONS = 24


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are compared at once.

    states: of each row, with all that the model was given for it.
    """

    rows: Sequence[Row]
    states: Sequence[RowStates]

    @property
    def counts(self) -> list[int]:
        """Number of compared positions of each row."""
        return [len(row.positions) for row in self.rows]

    @property
    def targets(self) -> torch.Tensor:
        """The token that follows each position, (positions,)."""
        return torch.tensor([row.labels[at + 1] for row in self.rows for at in row.positions], dtype=torch.int64)

    def joined(self) -> RowStates:
        """Return the states of all positions, without inputs."""
        parts = {name: [getattr(each, name) for each in self.states] for name in STATE_NAMES}
        present = {name: tensors for name, tensors in parts.items() if all(each is not None for each in tensors)}
        return RowStates.of({name: torch.cat(tensors) for name, tensors in present.items()})


def batches_of(compared: Sequence[tuple[Row, RowStates]]) -> Iterator[Batch]:
    """Yield rows and their states, at most POSITIONS positions together."""
    rows: list[Row] = []
    states: list[RowStates] = []
    for row, of_row in compared:
        if rows and sum(len(each.positions) for each in [*rows, row]) > POSITIONS:
            yield Batch(rows, states)
            rows, states = [], []
        rows.append(row)
        states.append(of_row)
    if rows:
        yield Batch(rows, states)


def trained_and_base_logits(
    states: RowStates, head: OutputHead, base_head: OutputHead | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the logits of trained and base model, by position.

    The second are None if all weights were trained. head, base_head: of both models, which may be the same one.
    """
    if states.base is None or base_head is None:
        return head(states.hidden), None
    if head is not base_head:
        return head(states.hidden), base_head(states.base)
    trained, base = head(torch.cat([states.hidden, states.base])).split(len(states.hidden))
    return trained, base
