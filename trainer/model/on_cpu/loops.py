"""Element-wise loops over bfloat16, compiled by numba.

PyTorch needs one pass over memory per operation for each of these functions. All of them compute in float32 and round
once, to the nearest bfloat16, ties to even. They release Python's lock and run on the core of the calling thread. numba
caches the compiled code for this processor in gemtune's cache folder.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.model.on_cpu.loop_cache import configure_numba_cache

Bits = NDArray[np.uint16]
Floats = NDArray[np.float32]

configure_numba_cache()

from numba import njit  # noqa: E402

# Sums may be reordered and divisions become products by a reciprocal. "nnan" and "ninf" are left out: infinities and
# NaN must come through, since a loss that is not finite ends the training.
_loop = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})
_inline = njit(inline="always")

_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
# The smallest normal float32, whose reciprocal is finite.
_TINY = np.float32(np.finfo(np.float32).tiny)
# e^x counts as 0 up to here; it is 1.6e-38, at the lower end of the normal numbers.
_LEAST = np.float32(-87)
# 2u of GELU's tanh approximation (`gated_unit`) is x * (LINEAR + CUBIC * x^2).
_LINEAR = np.float32(2 * math.sqrt(2 / math.pi))
_CUBIC = np.float32(2 * math.sqrt(2 / math.pi) * 0.044715)
_CUBIC_3 = np.float32(3 * 2 * math.sqrt(2 / math.pi) * 0.044715)


def rms_norm(x: torch.Tensor, factor: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the RMSNorm of x, and 1 / rms(x).

    x: (..., width) in bfloat16, contiguous. factor: (width,) in float32. The norm is x / sqrt(mean(x^2) + eps) * factor
    over the last dimension, in the shape and type of x; 1 / rms(x) is (..., 1) in float32.
    """
    out, inverse_rms = torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    _rms_norm(_rows(x), factor.numpy(), np.float32(eps), inverse_rms.view(-1).numpy(), _rows(out))
    return out, inverse_rms


def rms_norm_from_inverse(x: torch.Tensor, inverse_rms: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return the norm, given 1 / rms(x), as `rms_norm` returned both."""
    out = torch.empty_like(x)
    _rms_norm_from_inverse(_rows(x), inverse_rms.view(-1).numpy(), factor.numpy(), _rows(out))
    return out


def rms_norm_backward(
    grad_out: torch.Tensor, x: torch.Tensor, inverse_rms: torch.Tensor, factor: torch.Tensor
) -> torch.Tensor:
    """Return the gradient of x, as derived in `rms_norm._RmsNorm.backward`.

    grad_out: the gradient of the norm; it, x and the result are (..., width) in bfloat16, contiguous. inverse_rms:
    (..., 1) and factor: (width,) in float32.
    """
    grad_x = torch.empty_like(x)
    _rms_norm_backward(_rows(grad_out), _rows(x), inverse_rms.view(-1).numpy(), factor.numpy(), _rows(grad_x))
    return grad_x


def gated_gelu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return GELU(gate) * up; all (..., width) in bfloat16, contiguous."""
    out = torch.empty_like(gate)
    _gated_gelu(_flat(gate), _flat(up), _flat(out))
    return out


def gated_gelu_backward(
    grad_out: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of gate and up, derived in `gated_unit`.

    grad_out: the gradient of the result. All are (..., width) in bfloat16, contiguous.
    """
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    _gated_gelu_backward(_flat(grad_out), _flat(gate), _flat(up), _flat(grad_gate), _flat(grad_up))
    return grad_gate, grad_up


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs (i, i + width / 2) of the last dimension.

    x: (tokens, heads, width). cos, sin: (tokens, 1, width / 2). All are in bfloat16 and contiguous.
    """
    out = torch.empty_like(x)
    _rotate(_bits(x), _rows(cos), _rows(sin), _bits(out))
    return out


def softmax_shares(
    logits: torch.Tensor, target_exp: torch.Tensor, other_exp_sum: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace logits by exp(logits) / (target_exp + other_exp_sum).

    The sums of exp(logits) are added to other_exp_sum first, in place. logits: (rows, columns) in bfloat16, contiguous
    within a row. target_exp, other_exp_sum: (rows,) in float32. Returns the maximum and the sum of each column of the
    result, each (columns,) in float32.
    """
    column_max, column_sum = (torch.zeros(logits.shape[1]) for _ in range(2))
    _softmax_shares(_bits(logits), target_exp.numpy(), other_exp_sum.numpy(), column_max.numpy(), column_sum.numpy())
    return column_max, column_sum


def exp_sums(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums of e^x and of x e^x over each row, (rows,) in float32.

    logits: (rows, columns) in bfloat16, contiguous within a row. x e^x is 0 where x is -inf.
    """
    exp_sum, weighted_sum = (torch.empty(len(logits)) for _ in range(2))
    _exp_sums(_bits(logits), exp_sum.numpy(), weighted_sum.numpy())
    return exp_sum, weighted_sum


def matrix_vector(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Return matrix @ vector, (rows,) in float32.

    matrix: (rows, columns) in bfloat16. vector: (columns,) in float32.
    """
    out = torch.empty(len(matrix))
    _matrix_vector(_bits(matrix), vector.numpy(), out.numpy())
    return out


def vector_matrix(vector: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return vector @ matrix, (columns,) in float32.

    vector: (rows,) in float32. matrix: (rows, columns) in bfloat16.
    """
    out = torch.zeros(matrix.shape[1])
    _vector_matrix(vector.numpy(), _bits(matrix), out.numpy())
    return out


def _bits(x: torch.Tensor) -> Bits:
    """Return the bits of x as uint16, a view: NumPy has no bfloat16."""
    return x.detach().view(torch.uint16).numpy()


def _rows(x: torch.Tensor) -> Bits:
    """Return the bits of x as a matrix (rows, last dimension)."""
    return _bits(x.view(-1, x.shape[-1]))


def _flat(x: torch.Tensor) -> Bits:
    """Return the bits of x as a vector."""
    return _bits(x.view(-1))


@_inline
def _read(bits: np.uint16) -> np.float32:
    """Return a bfloat16, which is the upper half of a float32, as float32."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@_inline
def _written(value: np.float32) -> np.uint16:
    """Return the bits of the nearest bfloat16, ties to even.

    Adding half of the last kept place, or one bit less if that place is even, makes truncation round.
    """
    bits = np.float32(value).view(np.uint32)
    odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    nearest = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    return np.uint16(nearest) if value == value else np.uint16(0x7FC0)  # NaN stays NaN


@_inline
def _exp(x: np.float32) -> np.float32:
    """Return e^x in float32, to 2 units in the last place, for -87 <= x <= 88.

    x is clamped to that range. e^x = 2^n e^r with |r| <= ln(2) / 2; e^r is a polynomial with the coefficients of
    Cephes' expf (Moshier 1992). Calls of the C library's exp would not be vectorized.
    """
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    n = np.floor(x * np.float32(1 / math.log(2)) + _HALF)
    r = (x - n * np.float32(0.693359375)) - n * np.float32(-2.12194440e-4)  # ln(2) as a sum, for exact products
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
def _exp_or_zero(x: np.float32) -> np.float32:
    """Return e^x for any x: 0 up to -87, infinite above 88, NaN for NaN."""
    exp = _exp(x) if x > _LEAST else _ZERO
    return exp if x <= np.float32(88.0) else x * np.float32(np.inf)


@_inline
def _gelu_sigmoid(x: np.float32, squared: np.float32) -> np.float32:
    """Return GELU(x) / x = sigmoid(2u) of `gated_unit`. squared: x * x."""
    return _ONE / (_ONE + _exp(-(x * (_LINEAR + _CUBIC * squared))))


@_loop
def _rms_norm(x: Bits, factor: Floats, eps: np.float32, inverse_rms: Floats, out: Bits) -> None:
    """Write the norm of each row of x to out, and 1 / rms to inverse_rms.

    x, out: (rows, width). factor: (width,). inverse_rms: (rows,).
    """
    width = x.shape[1]
    for row in range(x.shape[0]):
        total = _ZERO
        for i in range(width):
            value = _read(x[row, i])
            total += value * value
        row_inverse = _ONE / np.sqrt(total / np.float32(width) + eps)
        inverse_rms[row] = row_inverse
        for i in range(width):
            out[row, i] = _written(_read(x[row, i]) * row_inverse * factor[i])


@_loop
def _rms_norm_from_inverse(x: Bits, inverse_rms: Floats, factor: Floats, out: Bits) -> None:
    """Write the norm of each row of x to out, given 1 / rms."""
    for row in range(x.shape[0]):
        row_inverse = inverse_rms[row]
        for i in range(x.shape[1]):
            out[row, i] = _written(_read(x[row, i]) * row_inverse * factor[i])


@_loop
def _rms_norm_backward(grad_out: Bits, x: Bits, inverse_rms: Floats, factor: Floats, grad_x: Bits) -> None:
    """Write r (g - x r^2 mean(g x)) to grad_x, with g = grad_out * factor.

    See `rms_norm._RmsNorm.backward`. grad_out, x, grad_x: (rows, width). inverse_rms: (rows,), r.
    """
    width = x.shape[1]
    for row in range(x.shape[0]):
        row_inverse, projection = inverse_rms[row], _ZERO
        for i in range(width):
            projection += _read(grad_out[row, i]) * factor[i] * _read(x[row, i])
        projection = -projection / np.float32(width) * row_inverse * row_inverse
        for i in range(width):
            scaled_grad = _read(grad_out[row, i]) * factor[i] + _read(x[row, i]) * projection
            grad_x[row, i] = _written(scaled_grad * row_inverse)


@_loop
def _gated_gelu(gate: Bits, up: Bits, out: Bits) -> None:
    """Write GELU(gate) * up to out; all are vectors of one length."""
    for i in range(gate.shape[0]):
        x = _read(gate[i])
        out[i] = _written(x * _gelu_sigmoid(x, x * x) * _read(up[i]))


@_loop
def _gated_gelu_backward(grad_out: Bits, gate: Bits, up: Bits, grad_gate: Bits, grad_up: Bits) -> None:
    """Write gradients of gate and up; see `gated_unit._GatedUnit.backward`."""
    for i in range(gate.shape[0]):
        x, grad = _read(gate[i]), _read(grad_out[i])
        squared = x * x
        sigmoid = _gelu_sigmoid(x, squared)
        gelu = x * sigmoid
        slope = sigmoid + gelu * (_ONE - sigmoid) * (_LINEAR + _CUBIC_3 * squared)
        grad_gate[i] = _written(slope * _read(up[i]) * grad)
        grad_up[i] = _written(gelu * grad)


@_loop
def _rotate(x: Bits, cos: Bits, sin: Bits, out: Bits) -> None:
    """Write x rotated to out; see `rotate`. cos, sin: (tokens, width / 2)."""
    half = x.shape[2] // 2
    for token in range(x.shape[0]):
        for head in range(x.shape[1]):
            for i in range(half):
                left, right = _read(x[token, head, i]), _read(x[token, head, half + i])
                cosine, sine = _read(cos[token, i]), _read(sin[token, i])
                out[token, head, i] = _written(left * cosine - right * sine)
                out[token, head, half + i] = _written(right * cosine + left * sine)


@_loop
def _softmax_shares(
    logits: Bits, target_exp: Floats, other_exp_sum: Floats, column_max: Floats, column_sum: Floats
) -> None:
    """Write shares to logits, and the maximum and sum of each column.

    See `softmax_shares`. column_max, column_sum: (columns,), 0 at first.
    """
    columns = logits.shape[1]
    exps = np.empty(columns, np.float32)
    for row in range(logits.shape[0]):
        row_sum = _ZERO
        for i in range(columns):
            exp = _exp_or_zero(_read(logits[row, i]))
            exps[i] = exp
            row_sum += exp
        other_exp_sum[row] += row_sum
        sum_so_far = target_exp[row] + other_exp_sum[row]
        inverse = _ONE / (_TINY if sum_so_far < _TINY else sum_so_far)  # unlike max(), this keeps NaN
        for i in range(columns):
            share = exps[i] * inverse
            logits[row, i] = _written(share)
            column_sum[i] += share
            column_max[i] = max(column_max[i], share)


@_loop
def _exp_sums(logits: Bits, exp_sum: Floats, weighted_sum: Floats) -> None:
    """Write the sums of e^x and x e^x of each row; see `exp_sums`."""
    for row in range(logits.shape[0]):
        total, weighted = _ZERO, _ZERO
        for i in range(logits.shape[1]):
            x = _read(logits[row, i])
            exp = _exp_or_zero(x)
            total += exp
            weighted += exp * max(x, _LEAST)
        exp_sum[row], weighted_sum[row] = total, weighted


@_loop
def _matrix_vector(matrix: Bits, vector: Floats, out: Floats) -> None:
    """Write matrix @ vector to out (rows,)."""
    for row in range(matrix.shape[0]):
        total = _ZERO
        for i in range(matrix.shape[1]):
            total += _read(matrix[row, i]) * vector[i]
        out[row] = total


@_loop
def _vector_matrix(vector: Floats, matrix: Bits, out: Floats) -> None:
    """Add vector @ matrix to out (columns,)."""
    for row in range(matrix.shape[0]):
        factor = vector[row]
        for i in range(matrix.shape[1]):
            out[i] += factor * _read(matrix[row, i])
