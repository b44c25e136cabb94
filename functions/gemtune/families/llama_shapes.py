"""Shapes of models that llama.cpp computes, by generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Activations that the first layers' MLPs leave out, in llama.cpp's code.

    layers: number of these layers. share: of their activations. least_width: width of MLPs from which on it makes no
    difference that llama.cpp divides the sum of squares of n activations by n - 1, and transformers by n.
    """

    layers: int
    share: float
    least_width: int


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """Shapes of a generation that llama.cpp computes.

    Its code has fixed what all published models have in common; another model would be converted wrongly, or not at
    all.
    untied_head: whether the output head may be another matrix than the embedding.
    window_period: every so many layers one is global; None if a file says which are.
    capped_scores: whether the scores of attention are capped.
    rope_types: how layers without a window may rotate positions; those with one are always "default".
    fixed_rope_base: whether a file does not state the base of rotary embeddings, so that llama.cpp takes 10,000.
    layers_scaled_by_share: the number of layers by which llama.cpp recognizes the one model whose scores are divided by
    the root of hidden size / heads, instead of that of a head's width; None without such a model.
    matches_rows: whether its converter writes as many tokens as the embedding has rows, and not those of the tokenizer.
    adds_rows: whether its converter adds zeros for tokens without embeddings per layer.
    fixed: numbers of config.json that are in llama.cpp's code, by field; they are transformers' defaults.
    layers_with_keys: the number of layers that have keys and values of their own, if it is in the code.
    sparsity: how MLPs leave out activations; None where they do not.
    """

    untied_head: bool = False
    window_period: int | None = None
    capped_scores: bool = False
    rope_types: tuple[str, ...] = ("default",)
    fixed_rope_base: bool = False
    layers_scaled_by_share: int | None = None
    matches_rows: bool = True
    adds_rows: bool = False
    fixed: Mapping[str, float] = field(default_factory=dict)
    layers_with_keys: int | None = None
    sparsity: Sparsity | None = None
