"""Dither for weights that a quantizer would round back to the base model's.

If a base model was dequantized before, its weights are on the grid of that format. A quantizer finds the same grid, and
rounds away what training added, which is mostly less than half a step. Uniform noise of up to half a step, added before
rounding, makes each expected value exact (non-subtractive dither; Lipshitz, Wannamaker and Vanderkooy, "Quantization
and Dither", 1992). A model sums hundreds of weights, so the errors average out. To other weights dither would only add
noise.

`python -m trainer.gguf.dither TOOLS EXACT QUANTIZED [UNTRAINED…]`: EXACT and QUANTIZED are GGUF files of the same
model, in bf16 and quantized. Changes EXACT in place, and prints the number of changed tensors as the last line. No
torch.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from trainer.gguf.file_layout import Entry, contents
from trainer.gguf.quantizer import Bytes, Floats, dequantizer

Dequantize = Callable[[Bytes, str], Floats]

# Per type: the bytes of a block that hold the values' low bits, and their value if every lowest bit is set
# (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h). IQ4_NL, whose steps differ, is in no export.
LOW_BITS: Mapping[str, tuple[slice, int]] = {
    "Q4_0": (slice(2, 18), 0x11), "Q5_0": (slice(6, 22), 0x11), "Q5_1": (slice(8, 24), 0x11),
    "Q8_0": (slice(2, 34), 0x01), "Q2_K": (slice(16, 80), 0x55), "Q3_K": (slice(32, 96), 0x55),
    "Q4_K": (slice(16, 144), 0x11), "Q5_K": (slice(48, 176), 0x11), "Q6_K": (slice(0, 128), 0x11),
}  # fmt: skip
# Quantizing arbitrary weights has a root mean square error of step / sqrt(12). Measured errors were 0.9 to 1.2 times
# that, and 0.1 to 0.7 times for weights on a grid. At 0.75, a third of a normally distributed change would survive.
ON_GRID = 0.75
# Values per chunk, and of the sample that shows whether a tensor is on a grid.
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor in both files.

    kind: ggml's name of its quantized type. dequantize: see `dequantized`.
    """

    kind: str
    dequantize: Dequantize
    exact: IO[bytes]
    exact_at: Entry
    quantized: IO[bytes]
    quantized_at: Entry

    @property
    def block(self) -> tuple[int, int]:
        """Values per block, and bytes per block."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        return GGML_QUANT_SIZES[GGMLQuantizationType[self.kind]]

    def read(self, begin: int) -> tuple[Floats, Bytes]:
        """Read a chunk of both files, beginning at block number `begin`.

        Returns the exact values (blocks, values per block) and the quantized blocks (blocks, bytes per block).
        """
        values, size = self.block
        count = min(CHUNK // values, self.exact_at.count // values - begin)
        self.quantized.seek(self.quantized_at.offset + begin * size)
        blocks = np.fromfile(self.quantized, np.uint8, count * size).reshape(count, size)
        self.exact.seek(self.exact_at.offset + begin * values * 2)
        return float32(np.fromfile(self.exact, np.uint16, count * values)).reshape(count, values), blocks

    def write(self, begin: int, values: Floats) -> None:
        """Overwrite exact values from block `begin` on, rounded to bf16."""
        self.exact.seek(self.exact_at.offset + begin * self.block[0] * 2)
        self.exact.write(bfloat16(values).tobytes())


def dither(exact: Path, quantized: Path, untrained: Collection[str] = (), dequantize: Dequantize | None = None) -> int:
    """Add noise to tensors of `exact` that are on their quantization's grid.

    Returns the number of changed tensors. untrained: names of tensors that training did not change, whose grid values
    are right. dequantize: `dequantized` by default. The same files get the same noise.
    """
    entries = {entry.name: entry for entry in contents(exact).entries}
    changed = 0
    with exact.open("r+b") as weights, quantized.open("rb") as rounded:
        for entry in contents(quantized).entries:
            kind, before = kind_name(entry.kind), entries[entry.name]
            if entry.name in untrained or kind not in LOW_BITS or kind_name(before.kind) != "BF16":
                continue
            tensor = _Tensor(kind, dequantize or dequantized, weights, before, rounded, entry)
            if _distance(tensor) < ON_GRID:
                _add_noise(tensor, np.random.default_rng(zlib.crc32(entry.name.encode())))
                changed += 1
    return changed


def _distance(tensor: _Tensor) -> float:
    """Return the quantization error relative to that of arbitrary weights.

    Both are root mean squares, over a chunk from the middle of the tensor.
    """
    count = tensor.exact_at.count // tensor.block[0]
    values, blocks = tensor.read(max(0, count - CHUNK // tensor.block[0]) // 2)
    expected = float(np.mean(np.square(grid_steps(blocks, tensor.kind, tensor.dequantize)))) / 12
    measured = float(np.mean(np.square(values - tensor.dequantize(blocks, tensor.kind))))
    return float(np.sqrt(measured / expected)) if expected > 0 else np.inf


def _add_noise(tensor: _Tensor, generator: np.random.Generator) -> None:
    size = tensor.block[0]
    for begin in range(0, tensor.exact_at.count // size, CHUNK // size):
        values, blocks = tensor.read(begin)
        noise = generator.random(values.shape, dtype=np.float32) - np.float32(0.5)
        tensor.write(begin, values + noise * grid_steps(blocks, tensor.kind, tensor.dequantize))


def dequantized(blocks: Bytes, kind: str) -> Floats:
    """Dequantize (blocks, bytes per block) to (blocks, values per block).

    It gives what `quantizer.dequantizer` gives, without ggml and ten times slower.
    """
    from gguf import GGMLQuantizationType, quants

    # llama.cpp's module computes 16 rows at a time, so all blocks are one row.
    values: Floats = quants.dequantize(blocks.reshape(1, -1), GGMLQuantizationType[kind])
    return values.reshape(len(blocks), -1)


def grid_steps(blocks: Bytes, kind: str, dequantize: Dequantize = dequantized) -> Floats:
    """Return the grid's step at each value, (blocks, values per block).

    It is the difference that a value's lowest bit makes.
    """
    low_bits, ones = LOW_BITS[kind]
    lower, upper = blocks.copy(), blocks.copy()
    lower[:, low_bits], upper[:, low_bits] = 0, ones
    return dequantize(upper, kind) - dequantize(lower, kind)


def float32(bf16: np.ndarray[Any, np.dtype[np.uint16]]) -> Floats:
    """Convert the bits of bf16 numbers to float32."""
    return (bf16.astype(np.uint32) << 16).view(np.float32)


def bfloat16(values: Floats) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Round float32 to bf16, ties to even, and return the bits."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def kind_name(kind: int) -> str:
    """Return ggml's name of a type of tensors."""
    from gguf import GGMLQuantizationType

    return str(GGMLQuantizationType(kind).name)


if __name__ == "__main__":
    _, tools, exact_file, quantized_file, *untrained_tensors = sys.argv
    sys.path.insert(0, str(Path(tools) / "gguf-py"))  # the version of gguf that belongs to the converter
    print(dither(Path(exact_file), Path(quantized_file), untrained_tensors, dequantizer(Path(tools))))
