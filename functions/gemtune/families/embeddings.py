"""Tokens that a request adds, compared with the embeddings of a model."""

from __future__ import annotations

from gemtune.errors import Problem
from gemtune.families.size import ModelSize

LOC = ("training_config", "new_tokens")


def new_tokens_problem(size: ModelSize | None) -> Problem | None:
    """Return why no tokens can be added to a model of a size, or None.

    size: None if it is not known.
    """
    if size is None or size.per_layer_input == 0:
        return None
    message = "every layer of this base model has an embedding of its own, to which no tokens can be added"
    hint = "use a base model without embeddings per layer, or leave new_tokens out: the text is tokenized as it is"
    return Problem(LOC, message, "embeddings_per_layer", hint)
