"""`python -m trainer.gguf.dither TOOLS EXACT QUANTIZED [UNTRAINED…]`: noise for weights that a quantizer would round
back to what they were before training.

A base model that was dequantized once lies on that format's grid. A quantizer finds the grid again, and what training
added, mostly less than half a step, is rounded away. Uniform noise of up to half a step, added before rounding, makes
each value come out right on average (non-subtractive dither; Lipshitz, Wannamaker and Vanderkooy, "Quantization and
Dither", 1992), and a model adds up hundreds of them. It is for such weights only: to others it is mere noise.

EXACT and QUANTIZED are GGUF files of the same model, in bf16 and in few bits. EXACT is changed in place; how many of
its tensors are is the last line of output. No torch.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from trainer.gguf.file_layout import Entry, contents

Floats = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

# By type: the bytes of a block that hold its values' low bits, and what they are when each value has its lowest bit set
# (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h). IQ4_NL has no even steps, and no export has IQ4_NL.
LOW_BITS: Mapping[str, tuple[slice, int]] = {
    "Q4_0": (slice(2, 18), 0x11), "Q5_0": (slice(6, 22), 0x11), "Q5_1": (slice(8, 24), 0x11),
    "Q8_0": (slice(2, 34), 0x01), "Q2_K": (slice(16, 80), 0x55), "Q3_K": (slice(32, 96), 0x55),
    "Q4_K": (slice(16, 144), 0x11), "Q5_K": (slice(48, 176), 0x11), "Q6_K": (slice(0, 128), 0x11),
}  # fmt: skip
# Weights that lie anywhere are rounded by step/sqrt(12), root mean square; measured were 0.9 to 1.2 of that, and 0.1 to
# 0.7 on a grid. Of a normally distributed change that makes it 0.75, a third would be left.
ON_GRID = 0.75
# Values at a time; as many tell whether a tensor lies on a grid.
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor in both files."""

    kind: str
    exact: IO[bytes]
    exact_at: Entry
    quantized: IO[bytes]
    quantized_at: Entry

    @property
    def block(self) -> tuple[int, int]:
        """How many values a block has, and how many bytes."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        return GGML_QUANT_SIZES[GGMLQuantizationType[self.kind]]

    def read(self, begin: int) -> tuple[Floats, Bytes]:
        """A chunk from a block on: values (blocks, values a block), and the blocks that they became."""
        values, size = self.block
        count = min(CHUNK // values, self.exact_at.count // values - begin)
        self.quantized.seek(self.quantized_at.offset + begin * size)
        blocks = np.fromfile(self.quantized, np.uint8, count * size).reshape(count, size)
        self.exact.seek(self.exact_at.offset + begin * values * 2)
        return float32(np.fromfile(self.exact, np.uint16, count * values)).reshape(count, values), blocks

    def write(self, begin: int, values: Floats) -> None:
        self.exact.seek(self.exact_at.offset + begin * self.block[0] * 2)
        self.exact.write(bfloat16(values).tobytes())


def dither(exact: Path, quantized: Path, untrained: Collection[str] = ()) -> int:
    """Add noise to the tensors of `exact` that lie on the grid they have in `quantized`; return how many those are.

    untrained: names of those that are as they always were, for which the grid is right. The same files get the same
    noise.
    """
    entries = {entry.name: entry for entry in contents(exact).entries}
    changed = 0
    with exact.open("r+b") as weights, quantized.open("rb") as rounded:
        for entry in contents(quantized).entries:
            kind, before = _name_of(entry.kind), entries[entry.name]
            if entry.name in untrained or kind not in LOW_BITS or _name_of(before.kind) != "BF16":
                continue
            tensor = _Tensor(kind, weights, before, rounded, entry)
            if _distance(tensor) < ON_GRID:
                _add_noise(tensor, np.random.default_rng(zlib.crc32(entry.name.encode())))
                changed += 1
    return changed


def _distance(tensor: _Tensor) -> float:
    """How far weights are from what they were rounded to, as a share of how far they were if they lay anywhere. Both
    are root mean squares, over a chunk from the middle."""
    count = tensor.exact_at.count // tensor.block[0]
    values, blocks = tensor.read(max(0, count - CHUNK // tensor.block[0]) // 2)
    anywhere = float(np.mean(np.square(steps(blocks, tensor.kind)))) / 12
    found = float(np.mean(np.square(values - dequantized(blocks, tensor.kind))))
    return float(np.sqrt(found / anywhere)) if anywhere > 0 else np.inf


def _add_noise(tensor: _Tensor, random: np.random.Generator) -> None:
    size = tensor.block[0]
    for begin in range(0, tensor.exact_at.count // size, CHUNK // size):
        values, blocks = tensor.read(begin)
        noise = random.random(values.shape, dtype=np.float32) - np.float32(0.5)
        tensor.write(begin, values + noise * steps(blocks, tensor.kind))


def steps(blocks: Bytes, kind: str) -> Floats:
    """The step of the grid at each value, (blocks, values a block): what its lowest bit makes."""
    place, ones = LOW_BITS[kind]
    lower, upper = blocks.copy(), blocks.copy()
    lower[:, place], upper[:, place] = 0, ones
    return dequantized(upper, kind) - dequantized(lower, kind)


def dequantized(blocks: Bytes, kind: str) -> Floats:
    from gguf import GGMLQuantizationType, quants

    found: Floats = quants.dequantize(blocks, GGMLQuantizationType[kind]).reshape(len(blocks), -1)
    return found


def float32(bf16: np.ndarray[Any, np.dtype[np.uint16]]) -> Floats:
    return (bf16.astype(np.uint32) << 16).view(np.float32)


def bfloat16(values: Floats) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _name_of(kind: int) -> str:
    from gguf import GGMLQuantizationType

    return str(GGMLQuantizationType(kind).name)


if __name__ == "__main__":
    _, given_tools, given_exact, given_quantized, *given_untrained = sys.argv
    sys.path.insert(0, str(Path(given_tools) / "gguf-py"))  # the one that belongs to the converter
    print(dither(Path(given_exact), Path(given_quantized), given_untrained))
