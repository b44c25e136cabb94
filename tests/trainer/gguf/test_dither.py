"""Dithering of weights before ggml itself quantizes them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, dequantize

from trainer.gguf import dither, quantizer
from trainer.gguf.file_layout import InvalidGguf, contents

Floats = np.ndarray[Any, np.dtype[np.float32]]
Quantize = Callable[[Floats, str], Any]
ROWS, WIDTH = 96, 512
# Length of the parts of a block that share one step, where it is not 32.
PART_LENGTH = {"Q6_K": 16, "Q3_K": 16, "Q2_K": 16}


@pytest.fixture(scope="session")
def quantize(tools: Path) -> Quantize:
    """Return a function that quantizes with ggml, as llama.cpp does."""
    ggml = ctypes.CDLL(str(tools / "lib" / "libggml-base.so"))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t

    def quantized(values: Floats, kind: str) -> Any:
        rows, width = values.shape
        source, buffer = np.ascontiguousarray(values), np.empty(values.nbytes, np.uint8)
        size = ggml.ggml_quantize_chunk(
            ctypes.c_int(GGMLQuantizationType[kind]),
            source.ctypes.data_as(ctypes.c_void_p),
            buffer.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(0),
            ctypes.c_int64(rows),
            ctypes.c_int64(width),
            None,
        )
        return buffer[:size].reshape(rows, -1)

    return quantized


def random_weights(seed: int, scale: float = 0.05) -> Floats:
    return np.random.default_rng(seed).normal(0, scale, (ROWS, WIDTH)).astype(np.float32)


def round_to_bf16(values: Floats) -> Floats:
    return dither.float32(dither.bfloat16(values))


def write(path: Path, tensors: Mapping[str, Any], kind: str) -> Path:
    writer = GGUFWriter(path, "gemma3")
    writer.add_token_list(["<pad>", "a", "b"])
    for name, values in tensors.items():
        writer.add_tensor(name, values, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def exact_file(path: Path, tensors: Mapping[str, Floats]) -> Path:
    return write(path, {name: dither.bfloat16(values).view(np.uint8) for name, values in tensors.items()}, "BF16")


def read(path: Path) -> dict[str, Floats]:
    raw = path.read_bytes()
    return {
        entry.name: dither.float32(np.frombuffer(raw, np.uint16, entry.count, entry.offset)).reshape(entry.shape)
        for entry in contents(path).entries
    }


def share_kept(after: Floats, base: Floats, change: Floats) -> float:
    """Return which share of a change is left, by projection."""
    return float(((after - base) * change).sum() / (change * change).sum())


@pytest.mark.parametrize("kind", dither.LOW_BITS)
def test_steps_are_the_distances_between_the_values_of_a_block(quantize: Quantize, kind: str) -> None:
    """Values in a part of a block differ by whole steps, some by exactly one."""
    blocks = quantize(random_weights(1), kind)
    values = dequantize(blocks, GGMLQuantizationType[kind]).reshape(-1, PART_LENGTH.get(kind, 32))
    block_size, type_size = dither._Tensor(kind, *[None] * 5).block  # type: ignore[arg-type]
    step = dither.grid_steps(blocks.reshape(-1, type_size), kind)
    assert step.shape == (ROWS * WIDTH // block_size, block_size)
    step = step.reshape(values.shape)
    assert np.ptp(step, axis=1).max() == 0
    apart = np.diff(np.sort(values, axis=1), axis=1)[step[:, 0] != 0] / np.abs(step[step[:, 0] != 0, :1])
    assert np.abs(apart - apart.round()).max() < 0.01
    smallest = np.where(apart.round() == 0, np.inf, apart.round()).min(axis=1)
    assert np.median(smallest) == 1


@pytest.mark.parametrize("kind", dither.LOW_BITS)
def test_ggml_dequantizes_as_the_package_gguf_does(tools: Path, quantize: Quantize, kind: str) -> None:
    blocks = quantize(random_weights(4), kind).reshape(-1, block_bytes(kind))
    values = quantizer.dequantizer(tools)(blocks[::-1], kind)
    assert values.tobytes() == dither.dequantized(blocks[::-1], kind).tobytes()


@pytest.mark.parametrize("kind", dither.LOW_BITS)
def test_a_change_of_weights_on_the_grid_survives_quantization(tmp_path: Path, quantize: Quantize, kind: str) -> None:
    base = round_to_bf16(dequantize(quantize(random_weights(2), kind), GGMLQuantizationType[kind]).reshape(ROWS, WIDTH))
    step = np.sqrt(np.mean(dither.grid_steps(quantize(base, kind).reshape(-1, block_bytes(kind)), kind) ** 2))
    trained = round_to_bf16(base + random_weights(3, 0.15 * step))
    change = trained - base
    blocks = quantize(trained, kind)
    before = dequantize(blocks, GGMLQuantizationType[kind]).reshape(ROWS, WIDTH)
    assert share_kept(before, base, change) < 0.4
    exact = exact_file(tmp_path / "exact.gguf", {"a": trained})
    assert dither.dither(exact, write(tmp_path / "few.gguf", {"a": blocks}, kind)) == 1
    after = dequantize(quantize(read(exact)["a"], kind), GGMLQuantizationType[kind]).reshape(ROWS, WIDTH)
    assert share_kept(after, base, change) > 0.7


def block_bytes(kind: str) -> int:
    return dither._Tensor(kind, *[None] * 5).block[1]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", dither.LOW_BITS)
def test_weights_off_the_grid_are_not_changed(tmp_path: Path, quantize: Quantize, kind: str) -> None:
    weights = round_to_bf16(random_weights(4))
    exact = exact_file(tmp_path / "exact.gguf", {"a": weights})
    before = exact.read_bytes()
    assert dither.dither(exact, write(tmp_path / "few.gguf", {"a": quantize(weights, kind)}, kind)) == 0
    assert exact.read_bytes() == before


def test_only_trained_weights_on_the_grid_are_dithered_and_deterministically(
    tmp_path: Path, quantize: Quantize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dither, "CHUNK", 4096)
    on = round_to_bf16(dequantize(quantize(random_weights(5), "Q4_K"), GGMLQuantizationType.Q4_K).reshape(ROWS, WIDTH))
    weights = {"anywhere": round_to_bf16(random_weights(6)), "on": on, "also.on": on, "untrained": on}
    few = write(tmp_path / "few.gguf", {name: quantize(values, "Q4_K") for name, values in weights.items()}, "Q4_K")
    one, other = (exact_file(tmp_path / name, weights) for name in ("one.gguf", "other.gguf"))
    assert dither.dither(one, few, ["untrained"]) == 2
    assert dither.dither(other, few, ["untrained"]) == 2
    assert one.read_bytes() == other.read_bytes()
    dithered = read(one)
    assert all(np.array_equal(dithered[name], weights[name]) for name in ("anywhere", "untrained"))
    noise = dithered["on"] - on
    step = dither.grid_steps(quantize(on, "Q4_K").reshape(-1, block_bytes("Q4_K")), "Q4_K").reshape(on.shape)
    assert np.abs(noise / step).max() < 0.53  # half a step, and the rounding to bf16
    assert (noise / step).std() == pytest.approx(12**-0.5, rel=0.02)
    assert abs((noise / step).mean()) < 0.01
    assert np.abs(np.corrcoef(noise.ravel(), (dithered["also.on"] - on).ravel())[0, 1]) < 0.05


def test_other_files_and_truncated_ones_are_not_gguf(tmp_path: Path) -> None:
    path = exact_file(tmp_path / "a.gguf", {"a": random_weights(7)})
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(InvalidGguf):
        contents(path)
    path.write_bytes(b"PK\x03\x04" + whole[4:])
    with pytest.raises(InvalidGguf):
        contents(path)
