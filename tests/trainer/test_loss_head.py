"""The head's loss and gradients, element by element, against autograd over all logits."""

from __future__ import annotations

import pytest
import torch

from trainer import loss_head
from trainer.loss_head import cross_entropy_sum


def plain(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, soft_cap: float | None) -> torch.Tensor:
    logits = hidden @ head.T
    if soft_cap is not None:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")


@pytest.mark.parametrize("block", [7, 64, 1000])
@pytest.mark.parametrize("soft_cap", [None, 3.0])
@pytest.mark.parametrize("trained", ["hidden", "head", "both"])
def test_loss_and_gradients_are_those_of_autograd(
    monkeypatch: pytest.MonkeyPatch, block: int, soft_cap: float | None, trained: str
) -> None:
    monkeypatch.setattr(loss_head, "BLOCK", block)
    chance = torch.Generator().manual_seed(block)
    tensors = []
    for function in (plain, lambda h, w, t, c: cross_entropy_sum(h, w, t, soft_cap=c)):
        chance.manual_seed(3)
        hidden = torch.randn(23, 16, dtype=torch.float64, generator=chance) * 2
        head = torch.randn(101, 16, dtype=torch.float64, generator=chance)
        targets = torch.randint(0, 101, (23,), generator=chance)
        hidden.requires_grad_(trained in ("hidden", "both"))
        head.requires_grad_(trained in ("head", "both"))
        loss = function(hidden, head, targets, soft_cap)
        (loss * 0.37).backward()
        tensors.append((loss.detach(), hidden.grad, head.grad))
    for expected, found in zip(*tensors, strict=True):
        assert (expected is None) == (found is None)
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradcheck() -> None:
    hidden = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    head = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 10, 3, 3])
    assert torch.autograd.gradcheck(lambda h, w: cross_entropy_sum(h, w, targets, soft_cap=2.0), (hidden, head))
    frozen = head.detach()
    assert torch.autograd.gradcheck(lambda h: cross_entropy_sum(h, frozen, targets), (hidden,))


def test_a_tied_head_gets_the_gradients_of_both_its_uses() -> None:
    found = []
    for function in (plain, lambda h, w, t, c: cross_entropy_sum(h, w, t, soft_cap=c)):
        torch.manual_seed(0)
        table = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
        ids = torch.randint(0, 50, (9,))
        function(torch.tanh(table[ids]), table, ids.roll(-1), None).backward()
        found.append(table.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


def test_large_logits_do_not_overflow() -> None:
    hidden = (torch.randn(6, 8) * 1e3).requires_grad_()
    head = torch.randn(300, 8)
    loss = cross_entropy_sum(hidden, head, torch.arange(6))
    loss.backward()
    assert torch.isfinite(loss)
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


def test_no_position_is_no_loss() -> None:
    hidden = torch.zeros(0, 8, requires_grad=True)
    loss = cross_entropy_sum(hidden, torch.randn(30, 8), torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
