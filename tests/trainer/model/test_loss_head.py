"""Loss and gradients of the output head, against autograd over all logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainer.model import loss_head, softmax_shares
from trainer.model.loss_head import cross_entropy_sum, log_probabilities
from trainer.model.row_gradients import TrainedRows


def plain(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, soft_cap: float | None) -> torch.Tensor:
    logits = hidden @ head.T
    if soft_cap is not None:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")


@pytest.mark.parametrize("block", [7, 64, 1000])
@pytest.mark.parametrize("soft_cap", [None, 3.0])
@pytest.mark.parametrize("trained", ["hidden", "head", "both"])
def test_loss_and_gradients_match_autograd(
    monkeypatch: pytest.MonkeyPatch, block: int, soft_cap: float | None, trained: str
) -> None:
    monkeypatch.setattr(loss_head, "BLOCK", block)
    generator = torch.Generator().manual_seed(block)
    tensors = []
    for function in (plain, lambda h, w, t, c: cross_entropy_sum(h, w, t, soft_cap=c)):
        generator.manual_seed(3)
        hidden = torch.randn(23, 16, dtype=torch.float64, generator=generator) * 2
        head = torch.randn(101, 16, dtype=torch.float64, generator=generator)
        targets = torch.randint(0, 101, (23,), generator=generator)
        hidden.requires_grad_(trained in ("hidden", "both"))
        head.requires_grad_(trained in ("head", "both"))
        loss = function(hidden, head, targets, soft_cap)
        (loss * 0.37).backward()
        tensors.append((loss.detach(), hidden.grad, head.grad))
    for expected, actual in zip(*tensors, strict=True):
        assert (expected is None) == (actual is None)
        if expected is not None:
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("soft_cap", [None, 3.0])
@pytest.mark.parametrize("trained", ["hidden", "both", "neither"])
def test_log_probabilities_entropies_and_gradients_match_autograd(
    monkeypatch: pytest.MonkeyPatch, soft_cap: float | None, temperature: float, trained: str
) -> None:
    monkeypatch.setattr(loss_head, "BLOCK", 7)
    generator = torch.Generator().manual_seed(4)
    hidden, head = (torch.randn(n, 16, dtype=torch.float64, generator=generator) for n in (23, 101))
    targets, outer = torch.randint(0, 101, (23,), generator=generator), torch.randn(23, dtype=torch.float64)
    results = []
    for ours in (False, True):
        h, w = hidden.clone().requires_grad_(trained != "neither"), head.clone().requires_grad_(trained == "both")
        if ours:
            logs, entropies = log_probabilities(h, w, targets, soft_cap=soft_cap, temperature=temperature)
            assert not entropies.requires_grad
        else:
            logits = h @ w.T if soft_cap is None else soft_cap * torch.tanh(h @ w.T / soft_cap)
            all_logs = torch.log_softmax(logits / temperature, -1)
            logs = all_logs.gather(1, targets.unsqueeze(1)).squeeze(1)
            entropies = -(all_logs.exp() * all_logs).sum(1).detach()
        if trained != "neither":
            (logs * outer).sum().backward()
        results.append((logs.detach(), entropies, h.grad, w.grad))
    for expected, actual in zip(*results, strict=True):
        assert (expected is None) == (actual is None)
        if expected is not None:
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_gradients_pass_gradcheck() -> None:
    hidden = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    head = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 10, 3, 3])
    assert torch.autograd.gradcheck(lambda h, w: cross_entropy_sum(h, w, targets, soft_cap=2.0), (hidden, head))
    frozen = head.detach()
    assert torch.autograd.gradcheck(lambda h: cross_entropy_sum(h, frozen, targets), (hidden,))


def test_a_tied_head_gets_the_gradients_of_both_uses() -> None:
    gradients = []
    for function in (plain, lambda h, w, t, c: cross_entropy_sum(h, w, t, soft_cap=c)):
        torch.manual_seed(0)
        table = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
        ids = torch.randint(0, 50, (9,))
        function(torch.tanh(table[ids]), table, ids.roll(-1), None).backward()
        gradients.append(table.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-12)


def test_large_logits_do_not_overflow() -> None:
    hidden = (torch.randn(6, 8) * 1e3).requires_grad_()
    head = torch.randn(300, 8)
    loss = cross_entropy_sum(hidden, head, torch.arange(6))
    loss.backward()
    assert torch.isfinite(loss)
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


def test_the_loss_of_no_positions_is_zero() -> None:
    hidden = torch.zeros(0, 8, requires_grad=True)
    loss = cross_entropy_sum(hidden, torch.randn(30, 8), torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0


@pytest.fixture(params=["compiled", "PyTorch's"])
def operations(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose the operations for 16 bits: compiled loops or PyTorch's."""
    if request.param == "compiled":
        assert softmax_shares.loops_for(torch.ones(1, dtype=torch.bfloat16)) is not None
    else:
        monkeypatch.setattr(softmax_shares, "loops_for", lambda _: None)


def peaked() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return hidden states, a head and targets in bfloat16.

    As in a trained model, the hidden states mostly predict their targets.
    """
    positions, vocabulary, width = 64, 3000, 48
    generator = torch.Generator().manual_seed(5)
    head = torch.randn(vocabulary, width, generator=generator)
    targets = torch.randint(0, vocabulary, (positions,), generator=generator)
    hidden = head[targets] * torch.rand(positions, 1, generator=generator) * 0.5
    hidden = hidden + torch.randn(positions, width, generator=generator) * 0.2
    return hidden.bfloat16(), head.bfloat16(), targets


@pytest.mark.usefixtures("operations")
@pytest.mark.parametrize("gap", [60.0, 90.0, 200.0])
def test_a_target_far_below_another_token_has_a_gradient_in_any_block(
    monkeypatch: pytest.MonkeyPatch, gap: float
) -> None:
    """The highest logit is in the last block; all others underflow next to it."""
    monkeypatch.setattr(loss_head, "BLOCK", 64)
    head = torch.zeros(256, 16)
    head[5, 0], head[255, 0] = -gap, gap  # the lowest logit is the first target's, the highest is in the last block
    hidden = torch.zeros(3, 16, dtype=torch.bfloat16)
    hidden[:, 0] = 1
    hidden.requires_grad_()
    targets = torch.tensor([5, 200, 255])
    loss = cross_entropy_sum(hidden, head.bfloat16(), targets)
    loss.backward()
    exact = hidden.detach().double().requires_grad_()
    torch.nn.functional.cross_entropy(exact @ head.bfloat16().double().T, targets, reduction="sum").backward()
    assert loss.item() == pytest.approx(3 * gap, rel=1e-2)
    torch.testing.assert_close(hidden.grad, exact.grad, rtol=1e-2, atol=1e-2, check_dtype=False)


@pytest.mark.usefixtures("operations")
def test_soft_capped_16_bit_gradients_are_as_accurate_as_autograds() -> None:
    hidden, head, targets = peaked()

    def gradient(ours: bool, dtype: torch.dtype) -> torch.Tensor:
        leaf, weight = hidden.to(dtype, copy=True).requires_grad_(), head.to(dtype)
        (
            cross_entropy_sum(leaf, weight, targets, soft_cap=6.0) if ours else plain(leaf, weight, targets, 6.0)
        ).backward()
        assert leaf.grad is not None
        return leaf.grad.double()

    exact, rounded = gradient(False, torch.float64), gradient(False, torch.bfloat16)
    assert (gradient(True, torch.bfloat16) - exact).norm() <= 1.1 * (rounded - exact).norm()


@pytest.mark.usefixtures("operations")
def test_16_bit_gradients_are_as_accurate_as_autograds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_head, "BLOCK", 512)  # with this block size most columns are skipped in the second product
    hidden, head, targets = peaked()

    def gradient(function: Any, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
        leaf = hidden.to(dtype, copy=True).requires_grad_()
        loss = function(leaf, head.to(dtype), targets)
        loss.backward()
        assert leaf.grad is not None
        return leaf.grad.double(), loss.item()

    def autograd_loss(h: torch.Tensor, w: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy((h @ w.T).float(), t, reduction="sum")

    exact, loss = gradient(autograd_loss, torch.float64)
    rounded, _ = gradient(autograd_loss, torch.bfloat16)
    ours, our_loss = gradient(cross_entropy_sum, torch.bfloat16)
    assert our_loss == pytest.approx(loss, rel=5e-3)
    assert (ours - exact).norm() <= 1.1 * (rounded - exact).norm()


@pytest.mark.usefixtures("operations")
@pytest.mark.parametrize("soft_cap", [None, 6.0])
def test_16_bit_log_probabilities_are_the_same_with_and_without_gradients(
    soft_cap: float | None,
) -> None:
    """A model that still equals its reference then has a margin of zero."""
    hidden, head, targets = peaked()
    logits = hidden.double() @ head.double().T
    exact = torch.log_softmax(logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap), -1)
    logs, entropies = log_probabilities(hidden, head, targets, soft_cap=soft_cap)
    with_gradient, entropies_with_gradient = log_probabilities(
        hidden.clone().requires_grad_(), head, targets, soft_cap=soft_cap
    )
    torch.testing.assert_close(with_gradient, logs, rtol=0, atol=1e-5)
    torch.testing.assert_close(entropies_with_gradient, entropies, rtol=0, atol=1e-5)
    torch.testing.assert_close(logs.double(), exact.gather(1, targets.unsqueeze(1)).squeeze(1), rtol=1e-2, atol=3e-2)
    torch.testing.assert_close(entropies.double(), -(exact.exp() * exact).sum(1), rtol=1e-2, atol=3e-2)


@pytest.mark.usefixtures("operations")
def test_relevant_columns_are_never_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """All shares of a flat softmax are small, but together they matter."""
    monkeypatch.setattr(softmax_shares, "NEGLIGIBLE", 1e-3)
    hidden = torch.zeros(8, 16, dtype=torch.bfloat16, requires_grad=True)
    head = torch.randn(500, 16).bfloat16()
    cross_entropy_sum(hidden, head, torch.arange(8)).backward()
    assert hidden.grad is not None
    expected = head.float().mean(0) - head[:8].float()
    torch.testing.assert_close(hidden.grad.float(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.usefixtures("operations")
def test_many_negligible_columns_are_not_lost_together() -> None:
    """A third of each softmax is spread over 16,000 columns.

    Their rows have a direction in common, so skipping them would add up.
    """
    positions, vocabulary, width = 48, 16_384, 32
    generator = torch.Generator().manual_seed(7)
    head = torch.randn(vocabulary, width, generator=generator) * 0.05
    head[:, 0] += 1
    head[:positions, 1:] += 4 * torch.nn.functional.normalize(torch.randn(positions, width - 1, generator=generator))
    targets = torch.arange(positions)
    hidden = 0.65 * torch.nn.functional.pad(head[:positions, 1:], (1, 0))
    hidden, head = hidden.bfloat16(), head.bfloat16()
    exact = hidden.double().requires_grad_()
    torch.nn.functional.cross_entropy(exact @ head.double().T, targets, reduction="sum").backward()
    ours = hidden.clone().requires_grad_()
    cross_entropy_sum(ours, head, targets).backward()
    assert exact.grad is not None
    assert ours.grad is not None
    shares = torch.softmax(hidden.double() @ head.double().T, 1)
    assert (shares * (shares < softmax_shares.NEGLIGIBLE)).sum(1).mean() > 0.2
    # The skipped columns change each position's gradient a little; over all positions the changes cancel.
    torch.testing.assert_close(ours.grad.double().sum(0), exact.grad.sum(0), rtol=0.02, atol=0.02 * positions**0.5)
    assert (ours.grad - exact.grad).norm() <= 0.02 * exact.grad.norm()


@pytest.mark.usefixtures("operations")
def test_overflowing_16_bit_logits_are_computed_relative_to_the_highest() -> None:
    hidden = torch.tensor([[50.0, 0.0], [0.5, 0.5]], dtype=torch.bfloat16, requires_grad=True)
    head = torch.tensor([[2.0, 0.0], [-2.0, 1.0], [0.0, 0.0]], dtype=torch.bfloat16)
    loss = cross_entropy_sum(hidden, head, torch.tensor([1, 0]))
    loss.backward()
    exact = hidden.detach().double().requires_grad_()
    plain(exact, head.double(), torch.tensor([1, 0]), None).backward()
    assert loss.item() == pytest.approx(plain(exact, head.double(), torch.tensor([1, 0]), None).item(), rel=1e-3)
    torch.testing.assert_close(hidden.grad.double(), exact.grad, rtol=1e-2, atol=1e-2)  # type: ignore[union-attr]


@pytest.mark.usefixtures("operations")
def test_a_nan_hidden_state_makes_the_loss_nan() -> None:
    hidden = torch.tensor([[1.0, float("nan")], [0.5, 0.5]], dtype=torch.bfloat16, requires_grad=True)
    head = torch.randn(600, 2).bfloat16()
    assert cross_entropy_sum(hidden, head, torch.tensor([1, 0])).isnan()


@pytest.mark.parametrize("trained", ["hidden", "both"])
def test_a_nearly_impossible_target_still_has_its_gradient(trained: str) -> None:
    """The loss exceeds the range of the exponents, so the pass is repeated."""
    hidden = torch.tensor([[100.0, 0.0]], requires_grad=True)
    head = torch.tensor([[2.0, 0.0], [-2.0, 1.0], [0.0, 0.0]], requires_grad=trained == "both")
    loss = cross_entropy_sum(hidden, head, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(400.0)
    torch.testing.assert_close(hidden.grad, torch.tensor([[4.0, -1.0]]))
    if trained == "both":
        torch.testing.assert_close(head.grad, torch.tensor([[100.0, 0.0], [-100.0, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize(("soft_cap", "temperature"), [(None, 1.0), (3.0, 0.7)])
def test_rows_of_a_frozen_head_get_the_gradient_of_autograd(soft_cap: float | None, temperature: float) -> None:
    generator = torch.Generator().manual_seed(5)
    hidden, head = (torch.randn(n, 16, dtype=torch.float64, generator=generator) for n in (23, 101))
    targets, ids = torch.randint(0, 101, (23,), generator=generator), torch.tensor([7, 99, 100])
    targets[3:6] = ids  # a trained row is a target, too
    outer = torch.randn(23, dtype=torch.float64, generator=generator)
    results = []
    for ours in (False, True):
        h, weights = hidden.clone().requires_grad_(True), head[ids].clone().requires_grad_(True)
        if ours:
            rows = TrainedRows(ids, weights)
            logs, _ = log_probabilities(h, head, targets, soft_cap=soft_cap, temperature=temperature, rows=rows)
        else:
            logits = h @ head.index_copy(0, ids, weights).T
            logits = logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)
            logs = torch.log_softmax(logits / temperature, 1)[torch.arange(23), targets]
        (logs * outer).sum().backward()
        results.append((logs.detach(), h.grad, weights.grad))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
