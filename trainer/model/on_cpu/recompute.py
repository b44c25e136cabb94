"""Activations that backward recomputes instead of saving them.

Some tensors are cheap to recompute from others that are saved anyway: a normalized vector from its input, which the
norm saves for its own gradient. The function that makes such a tensor calls `mark` to attach the recipe. An autograd
function that would save the tensor calls `reserve`, saves the inputs which that returns instead, and calls
`Recipe.take` in backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

_ATTRIBUTE = "gemtune_recipe"


class Recipe:
    """The function that recomputes a tensor, shared by all of its users.

    The first `take` computes the result; it is released after the last reserved one. The inputs are saved and released
    by autograd, not by the recipe.
    """

    def __init__(self, make: Callable[..., torch.Tensor]):
        """Share `make`, which returns the tensor, given its saved inputs."""
        self.make = make
        self._pending_uses = 0
        self._result: torch.Tensor | None = None

    def expect(self) -> None:
        """Reserve one more `take`."""
        self._pending_uses += 1

    def take(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the tensor, recomputed from its inputs by the first caller."""
        result = self.make(*inputs) if self._result is None else self._result
        self._pending_uses -= 1
        self._result = result if self._pending_uses > 0 else None
        return result


def mark(tensor: torch.Tensor, make: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    """Attach the recipe make(*inputs) to a tensor. Return the tensor.

    The recipe has to yield the same bits.
    """
    setattr(tensor, _ATTRIBUTE, (Recipe(make), inputs))
    return tensor


def mark_chain(
    tensor: torch.Tensor, first: torch.Tensor, make: Callable[..., torch.Tensor], *inputs: torch.Tensor
) -> torch.Tensor:
    """Attach the recipe make(first, *inputs) to a tensor. Return the tensor.

    If `first` has a recipe itself, it is recomputed from its own inputs instead of being saved.
    """
    recipe, sources = recipe_of(first) or (Recipe(_identity), (first.detach(),))
    count = len(inputs)
    return mark(tensor, lambda *tensors: make(recipe.make(*tensors[count:]), *tensors[:count]), *inputs, *sources)


def add(saved: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return saved + other, with a recipe if `other` has one.

    `saved` is a tensor that another function saves for backward anyway.
    """
    total = saved + other
    return total if recipe_of(other) is None else mark_chain(total, other, _add, saved.detach())


def _add(other: torch.Tensor, saved: torch.Tensor) -> torch.Tensor:
    """Return the sum, with the arguments in the order that `mark_chain` calls."""
    return saved + other


def recipe_of(tensor: torch.Tensor) -> tuple[Recipe, tuple[torch.Tensor, ...]] | None:
    """Return a tensor's recipe and its inputs; None if it has no recipe."""
    recipe: tuple[Recipe, tuple[torch.Tensor, ...]] | None = getattr(tensor, _ATTRIBUTE, None)
    return recipe


def reserve(tensor: torch.Tensor) -> tuple[Recipe, tuple[torch.Tensor, ...]]:
    """Return the recipe and the inputs to save in place of a tensor.

    Reserves one `Recipe.take`. For a tensor without a recipe, the input is the tensor itself.
    """
    recipe, inputs = recipe_of(tensor) or (Recipe(_identity), (tensor,))
    recipe.expect()
    return recipe, inputs


def _identity(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
