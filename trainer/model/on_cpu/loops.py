"""Loops over values in bfloat16, compiled by numba, for what PyTorch makes in a pass over memory an operation.

All of them compute in float32 and round once, to the nearest and ties to even. They run without Python's lock, on the
core of the thread that calls. Compiled code is kept in gemtune's cache, for this processor.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.model.on_cpu.loop_cache import choose_cache

Bits = NDArray[np.uint16]
Floats = NDArray[np.float32]

choose_cache()

from numba import njit  # noqa: E402

# Sums may be taken in another order, and a division be a product; but nothing is taken to be finite that may not be.
_loop = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})
_inline = njit(inline="always")

_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
# The least that has all of its digits, and one over it is no infinity.
_TINY = np.float32(np.finfo(np.float32).tiny)
# e^x is nothing up to here.
_LEAST = np.float32(-87)
# 2u of GELU's tanh approximation (`gated_unit`) is x * (LINEAR + CUBIC * x^2).
_LINEAR = np.float32(2 * math.sqrt(2 / math.pi))
_CUBIC = np.float32(2 * math.sqrt(2 / math.pi) * 0.044715)
_CUBIC_3 = np.float32(3 * 2 * math.sqrt(2 / math.pi) * 0.044715)


def normalized(x: torch.Tensor, factor: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """x / sqrt(mean(x^2) + eps) * factor over the last dimension, and one over that root, (..., 1).

    x: (..., width) in bfloat16, contiguous. factor: (width,) in float32.
    """
    out, inverse = torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    _normalized(_rows(x), factor.numpy(), np.float32(eps), inverse.view(-1).numpy(), _rows(out))
    return out, inverse


def scaled(x: torch.Tensor, inverse: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """What `normalized` made, of what it found on the way."""
    out = torch.empty_like(x)
    _scaled(_rows(x), inverse.view(-1).numpy(), factor.numpy(), _rows(out))
    return out


def normalized_backward(
    outer: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor, factor: torch.Tensor
) -> torch.Tensor:
    """The gradient of x, by that of the result."""
    out = torch.empty_like(x)
    _normalized_backward(_rows(outer), _rows(x), inverse.view(-1).numpy(), factor.numpy(), _rows(out))
    return out


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """GELU(gate) * up, all (..., width) in bfloat16, contiguous."""
    out = torch.empty_like(gate)
    _gated(_flat(gate), _flat(up), _flat(out))
    return out


def gated_backward(outer: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of gate and up, by that of the result."""
    of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
    _gated_backward(_flat(outer), _flat(gate), _flat(up), _flat(of_gate), _flat(of_up))
    return of_gate, of_up


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Pairs (i, i + width / 2) of the last dimension, turned. x: (tokens, heads, width) in bfloat16, contiguous. cos,
    sin: (tokens, 1, width / 2), too."""
    out = torch.empty_like(x)
    _turned(_numbers(x), _rows(cos), _rows(sin), _numbers(out))
    return out


def shares(logits: torch.Tensor, own: torch.Tensor, rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """exp(logits) / (own + rest), in the place of the logits, after their sums were added to rest. Of each column the
    largest and the sum: (columns,) in float32.

    logits: (rows, columns) in bfloat16, each row contiguous. own, rest: (rows,) in float32.
    """
    largest, total = (torch.zeros(logits.shape[1]) for _ in range(2))
    _shares(_numbers(logits), own.numpy(), rest.numpy(), largest.numpy(), total.numpy())
    return largest, total


def power_sums(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row the sum of e^x, and that of x e^x. logits: (rows, columns) in bfloat16, each row contiguous."""
    powers, along = (torch.empty(len(logits)) for _ in range(2))
    _power_sums(_numbers(logits), powers.numpy(), along.numpy())
    return powers, along


def matrix_vector(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """matrix (rows, columns) in bfloat16 @ vector (columns,) in float32: (rows,) in float32."""
    out = torch.empty(len(matrix))
    _matrix_vector(_numbers(matrix), vector.numpy(), out.numpy())
    return out


def vector_matrix(vector: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """vector (rows,) in float32 @ matrix (rows, columns) in bfloat16: (columns,) in float32."""
    out = torch.zeros(matrix.shape[1])
    _vector_matrix(vector.numpy(), _numbers(matrix), out.numpy())
    return out


def _numbers(x: torch.Tensor) -> Bits:
    """The bits of x, in NumPy, which has no bfloat16."""
    return x.detach().view(torch.uint16).numpy()


def _rows(x: torch.Tensor) -> Bits:
    return _numbers(x.view(-1, x.shape[-1]))


def _flat(x: torch.Tensor) -> Bits:
    return _numbers(x.view(-1))


@_inline
def _read(bits: np.uint16) -> np.float32:
    """A float32 begins with the bits of its bfloat16."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@_inline
def _written(value: np.float32) -> np.uint16:
    """The bits of the nearest bfloat16: half of the last one is added, and a bit less where the number is even."""
    bits = np.float32(value).view(np.uint32)
    odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    nearest = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    return np.uint16(nearest) if value == value else np.uint16(0x7FC0)  # no number stays none


@_inline
def _exp(x: np.float32) -> np.float32:
    """e^x in float32, within 2 units of its last place: 2^n e^r with |r| <= ln(2) / 2, of which e^r is a polynomial
    (coefficients as in Cephes' expf, Moshier 1992). The C library's, called value by value, would not be vectorized."""
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    n = np.floor(x * np.float32(1 / math.log(2)) + _HALF)
    r = (x - n * np.float32(0.693359375)) - n * np.float32(-2.12194440e-4)  # ln(2), in two parts
    power = np.float32(1.9875691500e-4)
    power = power * r + np.float32(1.3981999507e-3)
    power = power * r + np.float32(8.3334519073e-3)
    power = power * r + np.float32(4.1665795894e-2)
    power = power * r + np.float32(1.6666665459e-1)
    power = power * r + np.float32(5.0000001201e-1)
    two_to_n: np.float32 = np.int32(np.int32(np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    result: np.float32 = (power * r * r + r + _ONE) * two_to_n
    return result


@_inline
def _power(x: np.float32) -> np.float32:
    """e^x where that may be nothing, infinite or no number."""
    power = _exp(x) if x > _LEAST else _ZERO
    return power if x <= np.float32(88.0) else x * np.float32(np.inf)


@_inline
def _share(x: np.float32, squared: np.float32) -> np.float32:
    """GELU(x) / x."""
    return _ONE / (_ONE + _exp(-(x * (_LINEAR + _CUBIC * squared))))


@_loop
def _normalized(x: Bits, factor: Floats, eps: np.float32, inverse: Floats, out: Bits) -> None:
    width = x.shape[1]
    for row in range(x.shape[0]):
        total = _ZERO
        for i in range(width):
            value = _read(x[row, i])
            total += value * value
        found = _ONE / np.sqrt(total / np.float32(width) + eps)
        inverse[row] = found
        for i in range(width):
            out[row, i] = _written(_read(x[row, i]) * found * factor[i])


@_loop
def _scaled(x: Bits, inverse: Floats, factor: Floats, out: Bits) -> None:
    for row in range(x.shape[0]):
        found = inverse[row]
        for i in range(x.shape[1]):
            out[row, i] = _written(_read(x[row, i]) * found * factor[i])


@_loop
def _normalized_backward(outer: Bits, x: Bits, inverse: Floats, factor: Floats, out: Bits) -> None:
    """See `rms_norm`."""
    width = x.shape[1]
    for row in range(x.shape[0]):
        found, along = inverse[row], _ZERO
        for i in range(width):
            along += _read(outer[row, i]) * factor[i] * _read(x[row, i])
        along = -along / np.float32(width) * found * found
        for i in range(width):
            slope = _read(outer[row, i]) * factor[i] + _read(x[row, i]) * along
            out[row, i] = _written(slope * found)


@_loop
def _gated(gate: Bits, up: Bits, out: Bits) -> None:
    for i in range(gate.shape[0]):
        x = _read(gate[i])
        out[i] = _written(x * _share(x, x * x) * _read(up[i]))


@_loop
def _gated_backward(outer: Bits, gate: Bits, up: Bits, of_gate: Bits, of_up: Bits) -> None:
    """See `gated_unit`."""
    for i in range(gate.shape[0]):
        x, given = _read(gate[i]), _read(outer[i])
        squared = x * x
        share = _share(x, squared)
        unit = x * share
        slope = share + unit * (_ONE - share) * (_LINEAR + _CUBIC_3 * squared)
        of_gate[i] = _written(slope * _read(up[i]) * given)
        of_up[i] = _written(unit * given)


@_loop
def _turned(x: Bits, cos: Bits, sin: Bits, out: Bits) -> None:
    half = x.shape[2] // 2
    for token in range(x.shape[0]):
        for head in range(x.shape[1]):
            for i in range(half):
                left, right = _read(x[token, head, i]), _read(x[token, head, half + i])
                along, across = _read(cos[token, i]), _read(sin[token, i])
                out[token, head, i] = _written(left * along - right * across)
                out[token, head, half + i] = _written(right * along + left * across)


@_loop
def _shares(logits: Bits, own: Floats, rest: Floats, largest: Floats, total: Floats) -> None:
    columns = logits.shape[1]
    powers = np.empty(columns, np.float32)
    for row in range(logits.shape[0]):
        found = _ZERO
        for i in range(columns):
            power = _power(_read(logits[row, i]))
            powers[i] = power
            found += power
        rest[row] += found
        so_far = own[row] + rest[row]
        inverse = _ONE / (_TINY if so_far < _TINY else so_far)  # what is no number stays none
        for i in range(columns):
            share = powers[i] * inverse
            logits[row, i] = _written(share)
            total[i] += share
            largest[i] = max(largest[i], share)


@_loop
def _power_sums(logits: Bits, powers: Floats, along: Floats) -> None:
    for row in range(logits.shape[0]):
        summed, weighted = _ZERO, _ZERO
        for i in range(logits.shape[1]):
            x = _read(logits[row, i])
            power = _power(x)
            summed += power
            weighted += power * max(x, _LEAST)
        powers[row], along[row] = summed, weighted


@_loop
def _matrix_vector(matrix: Bits, vector: Floats, out: Floats) -> None:
    for row in range(matrix.shape[0]):
        found = _ZERO
        for i in range(matrix.shape[1]):
            found += _read(matrix[row, i]) * vector[i]
        out[row] = found


@_loop
def _vector_matrix(vector: Floats, matrix: Bits, out: Floats) -> None:
    for row in range(matrix.shape[0]):
        factor = vector[row]
        for i in range(matrix.shape[1]):
            out[i] += factor * _read(matrix[row, i])
