"""A tensor of a GGUF file, compared with the trained one chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.certificate.files.systematic import Systematic, scaled_row
from trainer.certificate.files.weights import Weight, spacing
from trainer.gguf.dither import LOW_BITS, Dequantize, dequantized, float32, grid_steps
from trainer.gguf.file_layout import Entry, InvalidGguf
from trainer.gguf.quantizer import Bytes, Floats

# Values per chunk.
CHUNK = 1 << 20
# Root mean square error of a quantized tensor, as a multiple of step / sqrt(12), the error of rounding to the nearest.
# Measured: 0.9 to 1.2 (`trainer.gguf.dither`). Dither adds as much noise again.
ERROR = 1.35
# The same for a single row, whose few blocks vary more. Measured on q8_0 and q4_k_m of Gemma 3 270M: up to 1.64 times
# the error of the row's own steps, which are up to 8 times those of the tensor.
ROW_ERROR = 3.0
# Largest multiple of a block's scale that a value can be, by type. Scales are float16 numbers, which are wrong by up to
# UNDERFLOW near 0: rows of values that small, as tokens have that training never met, are stored as 0.
MULTIPLES = {
    "Q4_0": 8,
    "Q5_0": 16,
    "Q5_1": 32,
    "Q8_0": 128,
    "Q2_K": 48,
    "Q3_K": 128,
    "Q4_K": 960,
    "Q5_K": 2048,
    "Q6_K": 4096,
}
UNDERFLOW = 2.0**-25
# Largest multiple in a block of Q8_0, and by how much a value may be farther than half a multiple from its own, since
# it is divided in float32.
LARGEST_IN_8_BITS, HALF_ERROR = 127, 1e-4
# Values per block in which a wrong scale is looked for, and the error of a block's values that its scale may cause in
# K-quants, where it is a multiple of the scale of 256 values: as a share of the largest step there. Measured on Gemma 3
# 270M in q4_k_m: up to half of what is allowed.
SCALED_TOGETHER, SCALE_STEP = 32, 0.1
# Types of at most 16 levels, where a small addition moves a value by a whole step or not at all. If the base model's
# weights lie between two levels, as weights do that were quantized before, the file holds a multiple of what training
# added: 7 times that in q2_k of Gemma 3 270M. How much of it is too much is left to the comparison of logits.
FEW_LEVELS = frozenset({"Q2_K", "Q3_K", "Q4_0", "Q4_K"})
PLAIN: Mapping[str, Any] = {"F32": np.float32, "F16": np.float16}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a GGUF file.

    kind: ggml's name of its type. block: values and bytes of a block. dequantize: see `dither.dequantized`.
    """

    path: Path
    entry: Entry
    kind: str
    block: tuple[int, int]
    dequantize: Dequantize = dequantized

    def chunk(self, begin: int, count: int) -> tuple[Floats, Floats | None]:
        """Return values from `begin` on, and the steps of their blocks."""
        if self.kind == "BF16":
            bits = np.memmap(self.path, np.uint16, "r", self.entry.offset + begin * 2, (count,))
            return float32(np.asarray(bits)), None
        if self.kind in PLAIN:
            at = self.entry.offset + begin * np.dtype(PLAIN[self.kind]).itemsize
            return np.memmap(self.path, PLAIN[self.kind], "r", at, (count,)).astype(np.float32), None
        raw = self._blocks(begin, count)
        values, steps = self.dequantize(raw, self.kind), grid_steps(raw, self.kind, self.dequantize)
        return values.reshape(-1), steps.reshape(-1)

    def is_nearest(self, begin: int, exact: torch.Tensor) -> bool:
        """Return whether values from `begin` on are the nearest to exact ones.

        Known of float16, and of Q8_0, whose blocks are a scale in float16, the largest value by 127, and its multiples
        in 8 bits. For other types it is False. exact: flat, in float32; values beyond the range of float16 have no
        nearest one.
        """
        if self.kind == "F16":
            nearest, stored = exact.half(), torch.from_numpy(self.chunk(begin, len(exact))[0])
            return bool(nearest.isfinite().all()) and torch.equal(nearest.float(), stored)
        if self.kind != "Q8_0":
            return False
        raw, values = self._blocks(begin, len(exact)), exact.reshape(-1, self.block[0])
        scales = values.abs().amax(1, keepdim=True).div_(LARGEST_IN_8_BITS)
        stored_scales = torch.from_numpy(raw[:, :2].copy().view(np.float16))
        if not torch.equal(scales.half(), stored_scales):
            return False
        distances = (values / scales.clamp_(min=torch.finfo(torch.float32).tiny)) - torch.from_numpy(
            raw[:, 2:].view(np.int8)
        )
        return bool((distances.abs_() <= 0.5 + HALF_ERROR).all())

    def _blocks(self, begin: int, count: int) -> Bytes:
        """Return the blocks of values from `begin` on, (blocks, bytes)."""
        values, size = self.block
        at = self.entry.offset + begin // values * size
        return np.array(np.memmap(self.path, np.uint8, "r", at, (count // values, size)))


def tensor_in(path: Path, entry: Entry, dequantize: Dequantize = dequantized) -> Tensor:
    """Return a tensor of a file. Raises InvalidGguf."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType(entry.kind)
    if kind.name not in {"F32", "F16", "BF16", *LOW_BITS}:
        raise InvalidGguf(f"{entry.name} of {path.name} has the unexpected type {kind.name}")
    return Tensor(path, entry, kind.name, GGML_QUANT_SIZES[kind], dequantize)


def problem(tensor: Tensor, weight: Weight, shift: float, *, was_dithered: bool) -> str | None:
    """Return how a tensor differs from the trained one beyond its rounding."""
    exact, entry = weight.value, tensor.entry
    if entry.count != exact.numel() or (exact.ndim > 1 and entry.shape != tuple(exact.shape)):
        return f"has the shape {entry.shape}, not {tuple(exact.shape)}"
    width = exact.shape[-1] if exact.ndim > 1 else exact.numel()
    flat, step = exact.reshape(-1), max(1, CHUNK // width) * width
    actual = expected = 0.0
    before = None if weight.before is None else weight.before.reshape(-1)
    systematic = Systematic()
    for begin in range(0, len(flat), step):
        ours = flat[begin : begin + step].float()
        merged = ours if weight.trained and exact.dtype == torch.float32 else ours.to(torch.bfloat16).float()
        if not shift and merged is not ours and tensor.is_nearest(begin, merged):
            continue  # as in most tensors that are not trained, for which the rest takes longer
        stored_values, steps = tensor.chunk(begin, len(ours))
        error = torch.from_numpy(stored_values) - (merged + shift)
        allowed = spacing(ours, torch.bfloat16) if merged is ours else torch.zeros_like(ours)
        if steps is None:
            if tensor.kind == "F16":
                allowed = allowed + spacing(ours + shift, torch.float16)
            elif shift:
                allowed = allowed + 1e-7 * (ours.abs() + shift)
            if not bool((error.abs() <= allowed).all()):
                return f"differs from the trained weights by up to {float(error.abs().max()):.3g}"
            if merged is not ours:
                continue
        # A value that is rounded up or down by chance has a variance of up to a quarter of the squared step.
        variance = allowed.square_().div_(4)
        if steps is not None:
            variance += torch.from_numpy(steps).square() / (6 if was_dithered else 12)
            row_problem = _row_problem(tensor.kind, *(each.reshape(-1, width) for each in (merged, error, variance)))
            row_problem = row_problem or _block_problem(tensor, merged, error, variance, torch.from_numpy(steps))
            if row_problem is not None:
                return row_problem
            actual, expected = actual + float(error.square().sum()), expected + float(variance.sum())
        added = None if before is None else ours - before[begin : begin + step].float()
        systematic.add(merged, error, variance, added)
    if not actual <= ERROR**2 * expected + 1e-24 * len(flat):
        return f"has {(actual / max(expected, 1e-24)) ** 0.5:.2f} times the error of {tensor.kind}"
    return systematic.problem(in_blocks=actual > 0, may_amplify=tensor.kind in FEW_LEVELS)


def _row_problem(kind: str, exact: torch.Tensor, error: torch.Tensor, variance: torch.Tensor) -> str | None:
    """Return what is wrong with a row of quantized values, or None.

    A row of large weights has large steps, so each is measured by its own. All are (rows, width); see `scaled_row`.
    """
    smallest = MULTIPLES[kind] * UNDERFLOW
    actual, honest = (each.mean(1).double() for each in (error.square(), variance))
    if not bool((actual <= ROW_ERROR**2 * honest + smallest**2).all()):
        ratio = float((actual / honest.clamp(min=1e-24)).max()) ** 0.5
        return f"has a row with {ratio:.1f} times the error of {kind}"
    return scaled_row(exact, error, variance, smallest)


def _block_problem(
    tensor: Tensor, exact: torch.Tensor, error: torch.Tensor, variance: torch.Tensor, steps: torch.Tensor
) -> str | None:
    """Return by how much the worst block of a tensor is scaled, or None.

    A single block hardly shows in its row. All tensors are flat, of whole blocks; steps are those of the values.
    """
    largest = steps.abs().reshape(-1, tensor.block[0]).amax(1, keepdim=True)
    of_scales = (SCALE_STEP * largest).square().expand(-1, tensor.block[0]).reshape(-1, SCALED_TOGETHER)
    ours, theirs, honest = (each.reshape(-1, SCALED_TOGETHER) for each in (exact, error, variance))
    return scaled_row(ours, theirs, honest + of_scales, MULTIPLES[tensor.kind] * UNDERFLOW, part="block")
