"""Accuracy and perplexity, against an independent computation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.datasets.conversation import of_messages
from tests import rows, tiny_gemma
from trainer.model import row_attention
from trainer.rows.encoded import Encoded
from trainer.rows.encoder import Encoder
from trainer.training import metrics
from trainer.training.batches import flatten_rows, pad_rows


def encoded_rows(base: Path) -> list[Encoded]:
    encoder = Encoder(base, max_length=512)
    chats = [row["messages"] for row in rows.held_out_rows(6)]
    chats.append([*chats[0], {"role": "user", "content": "And?"}, {"role": "assistant", "content": "Captain, no."}])
    return [row for chat in chats if isinstance(row := encoder.encode(of_messages(chat)), Encoded)]


def batches(encoded: list[Encoded], size: int, by_rows: bool) -> list[dict[str, Any]]:
    items = [[{"input_ids": row.input_ids, "labels": row.labels}] for row in encoded]
    collate = flatten_rows if by_rows else pad_rows
    return [collate(items[start : start + size]) for start in range(0, len(items), size)]


def reference_metrics(model: Any, encoded: list[Encoded]) -> tuple[float, float, float]:
    """Return loss, accuracy and perplexity from the model's own logits.

    It is computed row by row, without padding.
    """
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([row.input_ids])).logits[0].double() for row in encoded]
    return metrics_of_logits([(row_logits, row.labels) for row_logits, row in zip(logits, encoded, strict=True)])


def metrics_of_logits(rows: list[tuple[torch.Tensor, list[int]]]) -> tuple[float, float, float]:
    """Return loss, accuracy and perplexity, token by token in Python."""
    losses, hits = [], []
    for logits, labels in rows:
        for position in range(1, len(labels)):
            if labels[position] != -100:
                probabilities = torch.softmax(logits[position - 1], -1)
                losses.append(-math.log(probabilities[labels[position]]))
                hits.append(int(probabilities.argmax()) == labels[position])
    mean = sum(losses) / len(losses)
    return mean, sum(hits) / len(hits), 2 ** (mean / math.log(2))


@pytest.mark.parametrize("family", ["gemma3", "gemma2"])
@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("by_rows", [True, False])
def test_metrics_match_a_reference_computation(tmp_path: Path, family: str, size: int, by_rows: bool) -> None:
    from transformers import AutoModelForCausalLM

    base = tiny_gemma.build(tmp_path / family, family)
    row_attention.register()
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").float().eval()
    if family == "gemma2":  # a low cap, which the larger weights below reach
        model.config.final_logit_softcapping = 0.5
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)
    encoded = encoded_rows(base)
    loss, accuracy, perplexity = reference_metrics(model, encoded)
    if by_rows:
        model.set_attn_implementation(row_attention.NAME)
    sums = metrics.evaluate(model, batches(encoded, size, by_rows), torch.float32)
    measured = sums.evaluation_metrics(["accuracy", "perplexity"])
    assert measured.eval_loss == pytest.approx(loss, rel=1e-5)
    assert measured.accuracy == accuracy
    assert measured.perplexity == pytest.approx(perplexity, rel=1e-4)
    assert measured.perplexity is not None
    assert measured.perplexity > 1.1


@pytest.mark.parametrize(("positions", "block"), [(4, 256), (5, 7), (64, 100), (1, 1000)])
@pytest.mark.parametrize("family", ["gemma3", "gemma2"])
def test_logits_are_computed_in_blocks_of_positions_and_tokens(
    tmp_path: Path, family: str, positions: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(metrics, "POSITIONS", positions)
    monkeypatch.setattr(metrics, "BLOCK", block)
    model = AutoModelForCausalLM.from_pretrained(tiny_gemma.build(tmp_path / family, family)).float().eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)
    encoded = encoded_rows(tmp_path / family)
    loss, accuracy, _ = reference_metrics(model, encoded)
    largest: list[int] = []
    gather = torch.Tensor.gather

    def recording_gather(logits: torch.Tensor, *args: Any) -> torch.Tensor:
        largest.append(logits.numel())
        return gather(logits, *args)

    monkeypatch.setattr(torch.Tensor, "gather", recording_gather)
    measured = metrics.evaluate(model, batches(encoded, 3, by_rows=False), torch.float32).evaluation_metrics(
        ["accuracy"]
    )
    assert max(largest) <= max(positions, metrics.SHAPE_MULTIPLE) * block
    assert measured.eval_loss == pytest.approx(loss, rel=1e-5)
    assert measured.accuracy == accuracy


def test_the_first_of_equally_likely_tokens_is_predicted(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result equals argmax over the whole vocabulary, even across blocks."""
    monkeypatch.setattr(metrics, "BLOCK", 2)
    hidden, head = torch.ones(2, 1), torch.tensor([[0.0], [3.0], [1.0], [3.0], [3.0]])
    losses, is_first = metrics._losses_and_hits(hidden, torch.tensor([1, 3]), head, None)
    assert is_first.tolist() == [True, False]
    assert losses.tolist() == pytest.approx([math.log(3 + math.exp(-2) + math.exp(-3))] * 2)


def test_the_loss_of_a_diverged_model_is_nan() -> None:
    hidden = torch.tensor([[math.nan], [1.0]])
    losses, is_first = metrics._losses_and_hits(hidden, torch.tensor([1, 1]), torch.tensor([[0.0], [1.0]]), None)
    assert losses.isnan().tolist() == [True, False]
    assert is_first.tolist() == [False, True]


@pytest.mark.parametrize("family", ["gemma3", "gemma2"])
def test_padding_16_bit_batches_to_few_shapes_changes_no_metric(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    base = tiny_gemma.build(tmp_path / family, family)
    row_attention.register()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, attn_implementation=row_attention.NAME)
    encoded, tokens = encoded_rows(base), []
    handle = model.model.register_forward_pre_hook(
        lambda _, args, kwargs: tokens.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    rounded = metrics.evaluate(model, batches(encoded, 2, by_rows=True), torch.bfloat16)
    assert tokens
    assert all(number % metrics.SHAPE_MULTIPLE == 0 for number in tokens)
    tokens.clear()
    monkeypatch.setattr(metrics, "SHAPE_MULTIPLE", 1)
    plain = metrics.evaluate(model, batches(encoded, 2, by_rows=True), torch.bfloat16)
    assert any(number % 64 for number in tokens)
    handle.remove()
    assert rounded.tokens == plain.tokens == sum(row.trained_tokens for row in encoded)
    assert rounded.correct == plain.correct
    assert rounded.loss == pytest.approx(plain.loss, rel=1e-3)


def test_only_requested_metrics_are_returned() -> None:
    sums = metrics.Sums(loss=2.0, correct=1, tokens=2)
    assert sums.evaluation_metrics([]).by_name() == {"eval_loss": 1.0}
    assert sums.evaluation_metrics(["perplexity"]).perplexity == math.e
    assert metrics.Sums(loss=1e9, tokens=1).evaluation_metrics(["perplexity"]).perplexity == math.exp(700)
    with pytest.raises(ValueError, match="no token"):
        metrics.Sums().evaluation_metrics([])
