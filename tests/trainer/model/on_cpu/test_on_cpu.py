"""Layers for a CPU.

Each function is compared with autograd through the plain formula, and models with transformers' own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from tests import tiny_gemma
from tests.trainer.model.test_row_attention import loss_and_gradients, rows
from tests.trainer.saved_tensors import saved_bytes
from trainer.model import gradient_checkpointing, row_attention
from trainer.model.on_cpu import adapted_linear, attention, compiled, recompute
from trainer.model.on_cpu.adapted_linear import Layer, lora_linear
from trainer.model.on_cpu.attention import attend
from trainer.model.on_cpu.gated_unit import gated_gelu
from trainer.model.on_cpu.install import install, is_installed
from trainer.model.on_cpu.rms_norm import rms_norm
from trainer.model.on_cpu.rotary import rotate
from trainer.training.batches import flatten_rows

Function = Callable[..., torch.Tensor]
LENGTHS = (1, 37, 130, 64)
TOKENS = sum(LENGTHS)
# Tokens with queries: none in the first row, all in the third.
QUERY_TOKENS = torch.tensor([3, 4, 30, *range(38, 168), 180, 231])


def plain_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    return (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + 1e-6) * (1 + weight)).to(x.dtype)


def plain_adapted(x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return linear(x, weight) + linear(linear(x, a), b) * 1.5


def plain_rotation(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, -1)
    return x * torch.cat((cos, cos), -1) + torch.cat((-right, left), -1) * torch.cat((sin, sin), -1)


def plain_attention_of_some(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    everywhere = torch.zeros(TOKENS, *query.shape[1:], dtype=query.dtype)
    return plain_attention(everywhere.index_copy(0, QUERY_TOKENS, query), key, value)[QUERY_TOKENS]


def plain_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    outputs = [
        scaled_dot_product_attention(
            *(tensor.transpose(0, 1).unsqueeze(0) for tensor in row), is_causal=True, scale=0.1, enable_gqa=True
        )[0].transpose(0, 1)
        for row in zip(*(tensor.split(LENGTHS) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(outputs)


def cases() -> dict[str, tuple[Function, Function, Sequence[tuple[int, ...]]]]:
    """Return our function, the plain formula and the shapes of the inputs."""
    generator = torch.Generator().manual_seed(1)
    frozen = torch.randn(48, 32, generator=generator, dtype=torch.float64)
    norm, angles = frozen[0], torch.randn(TOKENS, 1, 16, generator=generator, dtype=torch.float64)

    def cast_like(x: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(x.dtype)

    return {
        "norm": (
            lambda x: rms_norm(x, cast_like(x, norm), 1e-6),
            lambda x: plain_norm(x, cast_like(x, norm)),
            [(2, 300, 32)],
        ),
        "gated": (gated_gelu, lambda gate, up: gelu(gate, approximate="tanh") * up, [(2, 30, 48)] * 2),
        "turned": (
            lambda x: rotate(x, cast_like(x, angles.cos()), cast_like(x, angles.sin())),
            lambda x: plain_rotation(x, cast_like(x, angles.cos()), cast_like(x, angles.sin())),
            [(TOKENS, 4, 32)],
        ),
        "adapted": (
            lambda x, a, b: lora_linear(x, [Layer(cast_like(x, frozen), a, b)], scale=1.5)[0],
            lambda x, a, b: plain_adapted(x, cast_like(x, frozen), a, b),
            [(1, 90, 32), (4, 32), (48, 4)],
        ),
        "adapted, side by side": (
            lambda x, a, b, c, d: torch.cat(
                lora_linear(x, [Layer(cast_like(x, frozen), a, b), Layer(cast_like(x, frozen)[:20], c, d)], scale=1.5),
                -1,
            ),
            lambda x, a, b, c, d: torch.cat(
                (plain_adapted(x, cast_like(x, frozen), a, b), plain_adapted(x, cast_like(x, frozen)[:20], c, d)), -1
            ),
            [(1, 90, 32), (4, 32), (48, 4), (6, 32), (20, 6)],
        ),
        "attention, one key head": (
            lambda q, k, v: attend(q, k, v, LENGTHS, 0.1),
            plain_attention,
            [(TOKENS, 4, 32), (TOKENS, 1, 32), (TOKENS, 1, 32)],
        ),
        "attention, of some tokens": (
            lambda q, k, v: attend(q, k, v, LENGTHS, 0.1, QUERY_TOKENS),
            plain_attention_of_some,
            [(len(QUERY_TOKENS), 4, 32), (TOKENS, 1, 32), (TOKENS, 1, 32)],
        ),
        "attention, two key heads": (
            lambda q, k, v: attend(q, k, v, LENGTHS, 0.1),
            plain_attention,
            [(TOKENS, 6, 32), (TOKENS, 2, 32), (TOKENS, 2, 32)],
        ),
    }


def results(function: Function, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[torch.Tensor]:
    """Return a function's result and the gradients of its inputs."""
    generator = torch.Generator().manual_seed(2)
    # Rounded to 16 bits first, so that all dtypes get the same values.
    inputs = [torch.randn(shape, generator=generator).bfloat16().to(dtype).requires_grad_() for shape in shapes]
    result = function(*inputs)
    result.backward(torch.randn(result.shape, generator=generator).bfloat16().to(dtype))
    gradients = [tensor.grad for tensor in inputs]
    assert all(gradient is not None for gradient in gradients)
    return [result.detach(), *gradients]  # type: ignore[list-item]


@pytest.mark.parametrize("name", list(cases()))
def test_a_function_and_its_gradients_match_the_plain_formula(name: str) -> None:
    ours, plain, shapes = cases()[name]
    for actual, expected in zip(*(results(f, shapes, torch.float64) for f in (ours, plain)), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("with_numba", [True, False])
@pytest.mark.parametrize("name", list(cases()))
def test_16_bit_results_are_as_accurate_as_the_plain_formulas(
    name: str, with_numba: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Allow a quarter more error, and twice the error for attention.

    Attention rounds the gradients of its scores to 16 bits, where the plain formula keeps 32.
    """
    if not with_numba:
        monkeypatch.setattr(compiled, "_loops", lambda: None)
    ours, plain, shapes = cases()[name]
    exact = results(plain, shapes, torch.float64)

    def errors(function: Function) -> list[float]:
        rounded = results(function, shapes, torch.bfloat16)
        return [float((a.double() - b).norm() / b.norm()) for a, b in zip(rounded, exact, strict=True)]

    allowed = 2.0 if name.startswith("attention") else 1.25
    for our_error, plain_error in zip(errors(ours), errors(plain), strict=True):
        assert our_error <= allowed * plain_error


def test_attention_ignores_other_rows_and_later_tokens() -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(TOKENS, heads, 32, generator=generator) for heads in (2, 1, 1))
    before = attend(query, key, value, LENGTHS, 1.0)
    changed = [tensor.clone() for tensor in (query, key, value)]
    for tensor in changed:
        tensor[100:] = torch.randn(tensor[100:].shape, generator=generator) * 50
    after = attend(*changed, LENGTHS, 1.0)
    assert torch.equal(before[:100], after[:100])
    assert not torch.equal(before[100:168], after[100:168])


def test_products_have_few_shapes_for_any_lengths_of_rows() -> None:
    shapes = set()
    for length in range(1, 300):
        for block in attention._blocks(
            torch.empty(2000, 4, 8), torch.empty(2000, 1, 8), torch.arange(2000), [length, 600]
        ):
            shapes.add((len(block.query_rows(torch.empty(2000, 4, 8))), len(block.key_rows(torch.empty(2000, 1, 8)))))
    assert len(shapes) <= 40


@pytest.mark.parametrize("probability", [0.001, 0.05, 0.5, 0.9])
def test_dropout_has_its_probability_at_every_place(probability: float) -> None:
    torch.manual_seed(0)
    dropped = adapted_linear._draw_dropout_mask(torch.Size((1999, 301)), probability).double()
    spread = (probability * (1 - probability)) ** 0.5
    assert abs(dropped.mean() - probability) < 4 * spread / dropped.numel() ** 0.5
    for by in (0, 1):
        means = dropped.mean(by)
        assert (means - probability).abs().max() < 6 * spread / dropped.shape[by] ** 0.5
    neighbours = ((dropped[:, 1:] - probability) * (dropped[:, :-1] - probability)).mean()
    assert abs(neighbours) < 5 * spread**2 / dropped.numel() ** 0.5


def test_an_adapter_with_dropout_gets_the_inputs_that_were_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    dropped, weight = torch.rand(20, 32) < 0.3, torch.randn(48, 32, dtype=torch.float64)
    monkeypatch.setattr(adapted_linear, "_draw_dropout_mask", lambda shape, probability: dropped)
    ours = lambda x, a, b: lora_linear(x, [Layer(weight, a, b)], scale=2.0, dropout=0.3)[0]  # noqa: E731
    plain = lambda x, a, b: x @ weight.T + 2 * (x * ~dropped / 0.7) @ a.T @ b.T  # noqa: E731
    shapes = [(20, 32), (4, 32), (48, 4)]
    for actual, expected in zip(*(results(f, shapes, torch.float64) for f in (ours, plain)), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_a_recomputed_tensor_is_computed_once_for_all_uses_and_released() -> None:
    calls = []

    def double(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return 2 * x

    source = torch.ones(3)
    marked = recompute.mark(double(source), double, source)
    (recipe, inputs), (same, _) = recompute.reserve(marked), recompute.reserve(marked)
    assert recipe is same
    first = recipe.take(inputs)
    assert recipe.take(inputs) is first
    assert torch.equal(first, marked)
    assert len(calls) == 2
    assert recipe._result is None
    plain, (itself,) = recompute.reserve(source)
    assert plain.take([itself]) is source


def model(folder: Path, *, ours: bool, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> Any:
    """Return a tiny model with a randomized adapter."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    row_attention.register()
    base = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=row_attention.NAME, dtype=dtype)
    torch.manual_seed(0)
    peft_model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear"))
    for name, parameter in peft_model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    if ours:
        install(peft_model)
    assert is_installed(peft_model) == ours
    return peft_model.train()


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3"])
def test_a_model_has_the_loss_and_gradients_of_transformers_and_peft(tmp_path: Path, family: str) -> None:
    """Batches contain rows shorter and longer than a sliding window."""
    folder = tiny_gemma.build(tmp_path / family, family)
    for batch_rows in (rows(), [rows()[0], rows()[2], rows()[3]]):
        (expected, plain_gradients), (loss, our_gradients) = (
            loss_and_gradients(model(folder, ours=ours), flatten_rows([batch_rows])) for ours in (False, True)
        )
        assert loss == pytest.approx(expected, rel=1e-5)
        for gradient, expected_gradient in zip(our_gradients, plain_gradients, strict=True):
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3"])
def test_every_part_of_a_gemma_is_replaced(tmp_path: Path, family: str) -> None:
    installed = model(tiny_gemma.build(tmp_path / family, family), ours=True)
    config = installed.config
    ours = [getattr(module.__dict__.get("forward"), "func", None) for module in installed.modules()]
    norms = {"gemma": 2, "gemma2": 4, "gemma3": 6}[family]
    parts = {
        "_norm": norms * config.num_hidden_layers + 1,
        "_mlp": config.num_hidden_layers,
        "_attention": config.num_hidden_layers,
        "_linear": 7 * config.num_hidden_layers,
        "_last_layer": 1,
    } | ({} if norms == 2 else {"_layer": config.num_hidden_layers - 1})
    names = [part.__name__ for part in ours if part is not None]
    assert {name: names.count(name) for name in names} == parts


def test_a_model_without_its_adapter_is_the_base_model(tmp_path: Path) -> None:
    folder = tiny_gemma.build(tmp_path / "tiny")
    batch = flatten_rows([rows()])
    adapted_model = model(folder, ours=True)
    with_adapter, _ = loss_and_gradients(adapted_model, batch)
    with adapted_model.disable_adapter(), torch.no_grad():
        ours = adapted_model(**batch).logits
    with torch.no_grad():
        plain = model(folder, ours=False)
        with plain.disable_adapter():
            torch.testing.assert_close(ours, plain(**batch).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(ours, adapted_model(**batch).logits, atol=1e-3)
    assert with_adapter > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_checkpointing_is_bitwise_identical(tmp_path: Path, dtype: torch.dtype) -> None:
    """Dropout draws the same numbers in the recomputation."""
    folder, results = tiny_gemma.build(tmp_path / "tiny"), []
    for checkpointing in (False, True):
        trained = model(folder, ours=True, dropout=0.1, dtype=dtype)
        if checkpointing:
            trained.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(1)
        results.append(loss_and_gradients(trained, flatten_rows([rows()]), dtype))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_layers_save_far_less_than_plain_ones_and_at_most_the_estimate(tmp_path: Path, dropout: float) -> None:
    folder = tiny_gemma.build(tmp_path / "tiny")
    batch = flatten_rows([[{"input_ids": [5] * 60, "labels": [5] * 60}] * 8])
    ours, plain = (model(folder, ours=ours, dropout=dropout, dtype=torch.bfloat16) for ours in (True, False))
    our_bytes, plain_bytes = (
        saved_bytes(model, lambda model=model: model(**batch, use_cache=False, logits_to_keep=1))
        for model in (ours, plain)
    )
    assert our_bytes < 0.5 * plain_bytes
    assert our_bytes <= gradient_checkpointing.activation_bytes(ours, 480) <= 2 * our_bytes


def test_recomputed_attention_weights_equal_the_saved_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _, shapes = cases()["attention, two key heads"]
    saved = results(ours, shapes, torch.bfloat16)
    monkeypatch.setattr(attention, "MAX_SAVED_KEYS", 100)
    assert all(torch.equal(a, b) for a, b in zip(results(ours, shapes, torch.bfloat16), saved, strict=True))
