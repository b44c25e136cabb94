"""Rows of the embedding for tokens that a request adds to a base model.

The base model's files stay as they are: the rows are added when a model is loaded, and exports get them from the
adapter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.conversation.chat_template import json_object

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# File in the prepared folder, and beside an adapter.
NAME = "new_tokens.json"


@dataclass(frozen=True, slots=True)
class NewTokens:
    """Tokens that were added to a tokenizer.

    ids: of the tokens, by their text. pieces: the ids of the base model's tokens that each text was before.
    tokenizer_size: tokens of the tokenizer with the new ones.
    """

    ids: Mapping[str, int]
    pieces: Mapping[str, Sequence[int]]
    tokenizer_size: int

    def rows_after(self, rows: int) -> int:
        """Return the rows of an embedding that has the tokens.

        rows: of the base model's embedding, which may have some to spare.
        """
        return max(rows, self.tokenizer_size)

    def trained_rows(self, rows: int) -> list[int]:
        """Return the ids whose rows of the embedding are trained, ascending.

        They are the new tokens', and those that the base model's tokenizer has and its embedding lacks, such as the
        picture token of Gemma 3's text models: added rows count in every softmax, so the adapter has to contain all of
        them. rows: of the base model's embedding.
        """
        return sorted({*self.ids.values(), *range(rows, self.rows_after(rows))})

    def first_rows(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return the rows at `trained_rows` as they are before training.

        The row of a new token is the mean of those of its pieces; that of another token is the mean of all. They are
        rounded to the embedding's type. embedding: (rows, width) of the base model.
        """
        pieces = {number: list(self.pieces[text]) for text, number in self.ids.items()}
        trained, float32 = self.trained_rows(len(embedding)), embedding[:1].float().dtype
        first = embedding.new_empty((len(trained), embedding.shape[1]))
        for index, row in enumerate(trained):
            first[index] = (embedding[pieces[row]] if row in pieces else embedding).mean(0, dtype=float32)
        return first

    def extended(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return the base model's embedding (rows, width) with `first_rows`."""
        return with_rows(embedding, self.trained_rows(len(embedding)), self.first_rows(embedding))

    def add_rows(self, model: PreTrainedModel) -> list[int]:
        """Add the rows to a loaded base model; return the ids to train."""
        layers = [model.get_input_embeddings(), model.get_output_embeddings()]
        before = [layer.weight.detach() for layer in layers]
        first = [self.first_rows(weight) for weight in before]
        rows, trained = len(before[0]), self.trained_rows(len(before[0]))
        model.resize_token_embeddings(self.rows_after(rows), mean_resizing=False)
        for layer, values in zip(layers, first, strict=True):
            layer.weight.data[trained] = values.to(layer.weight.device)
        return trained

    def write(self, folder: Path) -> None:
        """Write the file that `read` reads."""
        (folder / NAME).write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


def read(folder: Path) -> NewTokens | None:
    """Return the tokens that were added in a folder; None if there are none."""
    fields = json_object(folder / NAME)
    return NewTokens(**fields) if fields else None


def with_rows(embedding: torch.Tensor, ids: Sequence[int], rows: torch.Tensor) -> torch.Tensor:
    """Return an embedding (rows, width) with other rows at some ids.

    The ids may go on behind its end. The type stays that of the embedding.
    """
    result = embedding.new_zeros((max(len(embedding), max(ids) + 1), embedding.shape[1]))
    result[: len(embedding)] = embedding
    result[list(ids)] = rows.to(embedding.dtype)
    return result
