"""Tensors that backward makes again, from others that it keeps anyway, because that is cheaper than memory for them.

A normalized vector is made again from its input, which the norm keeps for its own gradient. What made a tensor says so
with `mark`. Who would keep the tensor for backward asks `kept` what to keep in its stead, and takes it back from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

_NAME = "gemtune_made_of"


class Recipe:
    """How a tensor is made. One result serves all who take it, and lives until the last of them has it. What it is made
    of is autograd's to keep and to let go, not the recipe's."""

    def __init__(self, make: Callable[..., torch.Tensor]):
        self.make = make
        self._takers = 0
        self._made: torch.Tensor | None = None

    def expect(self) -> None:
        """Somebody will take the tensor, once."""
        self._takers += 1

    def take(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        made = self.make(*inputs) if self._made is None else self._made
        self._takers -= 1
        self._made = made if self._takers > 0 else None
        return made


def mark(made: torch.Tensor, make: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    """Say that `made` is `make(*inputs)`, to the bit."""
    setattr(made, _NAME, (Recipe(make), inputs))
    return made


def mark_chain(
    made: torch.Tensor, of: torch.Tensor, make: Callable[..., torch.Tensor], *inputs: torch.Tensor
) -> torch.Tensor:
    """Say that `made` is `make(of, *inputs)`. Where `of` is marked itself, it is made again first, not kept."""
    recipe, sources = made_of(of) or (Recipe(_itself), (of.detach(),))
    count = len(inputs)
    return mark(made, lambda *given: make(recipe.make(*given[count:]), *given[:count]), *inputs, *sources)


def added(kept: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """kept + other, to be made again where `other` is; `kept` is somebody's to keep anyway."""
    total = kept + other
    return total if made_of(other) is None else mark_chain(total, other, _plus, kept.detach())


def _plus(other: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    return kept + other


def made_of(tensor: torch.Tensor) -> tuple[Recipe, tuple[torch.Tensor, ...]] | None:
    """How it was made, and of what, if it is marked."""
    found: tuple[Recipe, tuple[torch.Tensor, ...]] | None = getattr(tensor, _NAME, None)
    return found


def kept(tensor: torch.Tensor) -> tuple[Recipe, tuple[torch.Tensor, ...]]:
    """What a function saves for its backward in order to `take` the tensor there."""
    recipe, inputs = made_of(tensor) or (Recipe(_itself), (tensor,))
    recipe.expect()
    return recipe, inputs


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
