"""Dither, on tensors that ggml itself quantizes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, dequantize

from tests.trainer.gguf.test_gguf import tools  # noqa: F401
from trainer.gguf import dither
from trainer.gguf.file_layout import InvalidGguf, contents

Floats = np.ndarray[Any, np.dtype[np.float32]]
Quantize = Callable[[Floats, str], Any]
ROWS, WIDTH = 96, 512
# Rows of blocks within which all steps are alike.
ALIKE = {"Q6_K": 16, "Q3_K": 16, "Q2_K": 16}


@pytest.fixture(scope="session")
def quantize(tools: Path) -> Quantize:  # noqa: F811
    """Blocks of a type, by the function of ggml that llama.cpp quantizes with."""
    ggml = ctypes.CDLL(str(tools / "lib" / "libggml-base.so"))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t

    def quantized(values: Floats, kind: str) -> Any:
        rows, width = values.shape
        source, room = np.ascontiguousarray(values), np.empty(values.nbytes, np.uint8)
        size = ggml.ggml_quantize_chunk(
            ctypes.c_int(GGMLQuantizationType[kind]),
            source.ctypes.data_as(ctypes.c_void_p),
            room.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(0),
            ctypes.c_int64(rows),
            ctypes.c_int64(width),
            None,
        )
        return room[:size].reshape(rows, -1)

    return quantized


def random(seed: int, scale: float = 0.05) -> Floats:
    return np.random.default_rng(seed).normal(0, scale, (ROWS, WIDTH)).astype(np.float32)


def in_bf16(values: Floats) -> Floats:
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


def kept(after: Floats, base: Floats, change: Floats) -> float:
    """How much of a change is left, by projection."""
    return float(((after - base) * change).sum() / (change * change).sum())


@pytest.mark.parametrize("kind", dither.LOW_BITS)
def test_steps_are_what_the_values_of_blocks_are_apart(quantize: Quantize, kind: str) -> None:
    """All values that lie in the same part of a block differ by whole steps, and somewhere by one."""
    blocks = quantize(random(1), kind)
    values = dequantize(blocks, GGMLQuantizationType[kind]).reshape(-1, ALIKE.get(kind, 32))
    block_size, type_size = dither._Tensor(kind, *[None] * 4).block  # type: ignore[arg-type]
    step = dither.grid_steps(blocks.reshape(-1, type_size), kind)
    assert step.shape == (ROWS * WIDTH // block_size, block_size)
    step = step.reshape(values.shape)
    assert np.ptp(step, axis=1).max() == 0
    apart = np.diff(np.sort(values, axis=1), axis=1)[step[:, 0] != 0] / np.abs(step[step[:, 0] != 0, :1])
    assert np.abs(apart - apart.round()).max() < 0.01
    smallest = np.where(apart.round() == 0, np.inf, apart.round()).min(axis=1)
    assert np.median(smallest) == 1


@pytest.mark.parametrize("kind", dither.LOW_BITS)
def test_a_change_of_weights_on_a_grid_outlives_quantizing(tmp_path: Path, quantize: Quantize, kind: str) -> None:
    base = in_bf16(dequantize(quantize(random(2), kind), GGMLQuantizationType[kind]).reshape(ROWS, WIDTH))
    step = np.sqrt(np.mean(dither.grid_steps(quantize(base, kind).reshape(-1, block_bytes(kind)), kind) ** 2))
    trained = in_bf16(base + random(3, 0.15 * step))
    change = trained - base
    blocks = quantize(trained, kind)
    before = dequantize(blocks, GGMLQuantizationType[kind]).reshape(ROWS, WIDTH)
    assert kept(before, base, change) < 0.4
    exact = exact_file(tmp_path / "exact.gguf", {"a": trained})
    assert dither.dither(exact, write(tmp_path / "few.gguf", {"a": blocks}, kind)) == 1
    after = dequantize(quantize(read(exact)["a"], kind), GGMLQuantizationType[kind]).reshape(ROWS, WIDTH)
    assert kept(after, base, change) > 0.7


def block_bytes(kind: str) -> int:
    return dither._Tensor(kind, *[None] * 4).block[1]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", dither.LOW_BITS)
def test_weights_that_lie_anywhere_stay_as_they_are(tmp_path: Path, quantize: Quantize, kind: str) -> None:
    weights = in_bf16(random(4))
    exact = exact_file(tmp_path / "exact.gguf", {"a": weights})
    before = exact.read_bytes()
    assert dither.dither(exact, write(tmp_path / "few.gguf", {"a": quantize(weights, kind)}, kind)) == 0
    assert exact.read_bytes() == before


def test_only_what_lies_on_the_grid_and_was_trained_is_dithered_and_always_the_same(
    tmp_path: Path, quantize: Quantize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dither, "CHUNK", 4096)
    on = in_bf16(dequantize(quantize(random(5), "Q4_K"), GGMLQuantizationType.Q4_K).reshape(ROWS, WIDTH))
    weights = {"anywhere": in_bf16(random(6)), "on": on, "also.on": on, "untrained": on}
    few = write(tmp_path / "few.gguf", {name: quantize(each, "Q4_K") for name, each in weights.items()}, "Q4_K")
    one, other = (exact_file(tmp_path / name, weights) for name in ("one.gguf", "other.gguf"))
    assert dither.dither(one, few, ["untrained"]) == 2
    assert dither.dither(other, few, ["untrained"]) == 2
    assert one.read_bytes() == other.read_bytes()
    found = read(one)
    assert all(np.array_equal(found[name], weights[name]) for name in ("anywhere", "untrained"))
    noise = found["on"] - on
    step = dither.grid_steps(quantize(on, "Q4_K").reshape(-1, block_bytes("Q4_K")), "Q4_K").reshape(on.shape)
    assert np.abs(noise / step).max() < 0.53  # half, and what bf16 rounds
    assert (noise / step).std() == pytest.approx(12**-0.5, rel=0.02)
    assert abs((noise / step).mean()) < 0.01
    assert np.abs(np.corrcoef(noise.ravel(), (found["also.on"] - on).ravel())[0, 1]) < 0.05


def test_a_file_of_another_kind_and_one_that_was_cut_are_no_gguf(tmp_path: Path) -> None:
    path = exact_file(tmp_path / "a.gguf", {"a": random(7)})
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(InvalidGguf):
        contents(path)
    path.write_bytes(b"PK\x03\x04" + whole[4:])
    with pytest.raises(InvalidGguf):
        contents(path)
