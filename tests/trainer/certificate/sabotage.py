"""Ways to spoil an export, one per function; each gets the export's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from gguf import GGMLQuantizationType, GGUFReader, quants
from safetensors.torch import load_file, save_file

from trainer.export.merge import NF4_PARTS

Sabotage = Callable[[Path], None]


def tensors(change: Callable[[dict[str, torch.Tensor]], object], name: str = "model.safetensors") -> Sabotage:
    """Return a sabotage that changes the tensors of a safetensors file."""

    def spoil(folder: Path) -> None:
        weights = load_file(folder / name)
        change(weights)
        save_file(weights, folder / name, metadata={"format": "pt"})

    return spoil


def add(name: str, amount: float) -> Sabotage:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[name] += amount

    return tensors(change)


def swap(first: str, second: str, file: str = "model.safetensors") -> Sabotage:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[first], weights[second] = weights[second].clone(), weights[first].clone()

    return tensors(change, file)


def scale(part: str, factor: float, file: str = "model.safetensors") -> Sabotage:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in weights:
            if part in name and weights[name].is_floating_point():
                weights[name] *= factor

    return tensors(change, file)


def not_a_number(part: str) -> Sabotage:
    """Return a sabotage that loses one value of the first tensor of a name."""

    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[next(name for name in sorted(weights) if part in name)][-1] = torch.nan

    return tensors(change)


def noise(part: str, share: float) -> Sabotage:
    """Return a sabotage that adds noise, as a share of standard deviation."""

    def change(weights: dict[str, torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(3)
        for name in weights:
            if part in name and weights[name].is_floating_point():
                deviation = weights[name].float().std()
                weights[name] += (share * deviation * torch.randn(weights[name].shape, generator=generator)).to(
                    weights[name].dtype
                )

    return tensors(change)


def take_from(source: Path, part: str, file: str = "model.safetensors") -> Sabotage:
    """Return a sabotage that takes tensors from another model's file."""

    def change(weights: dict[str, torch.Tensor]) -> None:
        other = load_file(source / file)
        for name in weights:
            if part in name:
                weights[name] = other[name].to(weights[name].dtype)

    return tensors(change, file)


def setting(file: str, **values: Any) -> Sabotage:
    """Return a sabotage that sets or, with None, removes fields of JSON."""

    def spoil(folder: Path) -> None:
        fields = json.loads((folder / file).read_text()) | values
        (folder / file).write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))

    return spoil


def text(file: str, old: str, new: str) -> Sabotage:
    def spoil(folder: Path) -> None:
        content = (folder / file).read_text()
        assert old in content
        (folder / file).write_text(content.replace(old, new, 1))

    return spoil


def swap_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.__getitem__)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(tokenizer))


def cut_off(file: str, size: int) -> Sabotage:
    def spoil(folder: Path) -> None:
        with (folder / file).open("r+b") as stream:
            stream.truncate((folder / file).stat().st_size - size)

    return spoil


def without(file: str) -> Sabotage:
    return lambda folder: (folder / file).unlink()


def with_file_of(source: Path, file: str) -> Sabotage:
    def spoil(folder: Path) -> None:
        shutil.copyfile(source / file, folder / file)

    return spoil


def replaced(file: str, source: Path) -> Sabotage:
    """Return a sabotage that puts another file in the place of one."""
    return lambda folder: shutil.copyfile(source, folder / file) and None


def metadata(file: str, key: str, value: Any) -> Sabotage:
    """Return a sabotage that changes a number of a GGUF file's metadata."""

    def spoil(folder: Path) -> None:
        field = GGUFReader(folder / file, "r+").get_field(key)
        assert field is not None, key
        field.parts[field.data[0]][0] = value

    return spoil


def metadata_item(file: str, key: str, index: int, value: Any) -> Sabotage:
    """Return a sabotage that changes a number of an array of metadata."""

    def spoil(folder: Path) -> None:
        field = GGUFReader(folder / file, "r+").get_field(key)
        assert field is not None, key
        field.parts[field.data[index]][0] = value

    return spoil


def scaled_nf4_row(name: str, row: int, factor: float) -> Sabotage:
    """Return a sabotage that scales a row of a tensor in 4 bits."""

    def change(weights: dict[str, torch.Tensor]) -> None:
        parts = {part: weights[f"{name}.{part}"] for part in NF4_PARTS}
        values = dequantize_4bit(weights[name], QuantState.from_dict(dict(parts), device=torch.device("cpu")))
        values[row] *= factor
        weights[name], state = quantize_4bit(values, quant_type="nf4", compress_statistics=True)
        weights.update({f"{name}.{part}": tensor for part, tensor in state.as_dict(packed=True).items()})

    return tensors(change)


def cut_digits(exact: Callable[[], dict[str, torch.Tensor]]) -> Sabotage:
    """Return a sabotage that cuts off digits instead of rounding.

    exact: returns the exact weights in float32, by name.
    """

    def change(weights: dict[str, torch.Tensor]) -> None:
        for name, values in exact().items():
            weights[name] = (values.view(torch.int32) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)

    return tensors(change)


def another_file(name: str) -> Sabotage:
    return lambda folder: (folder / name).write_text("{}") and None


def reordered_merges(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    merges = tokenizer["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    path.write_text(json.dumps(tokenizer))


def lost_key(file: str, key: str) -> Sabotage:
    """Return a sabotage that renames a key, so that readers do not see it."""

    def spoil(folder: Path) -> None:
        field = GGUFReader(folder / file, "r+").get_field(key)
        assert field is not None, key
        field.parts[1][-1] = ord("_")

    return spoil


def swapped_pieces(file: str) -> Sabotage:
    """Return a sabotage that swaps two tokens of equal length."""

    def spoil(folder: Path) -> None:
        field = GGUFReader(folder / file, "r+").get_field("tokenizer.ggml.tokens")
        assert field is not None
        pieces = [field.parts[index] for index in field.data]
        first, second = next(
            (a, b) for a in pieces[300:] for b in pieces[300:] if len(a) == len(b) and bytes(a) != bytes(b)
        )
        first[:], second[:] = second.copy(), first.copy()

    return spoil


def gguf_tensor(file: str, name: str, change: Callable[[Any], Any]) -> Sabotage:
    """Return a sabotage that changes the values of a tensor in a GGUF file.

    Values of a quantized tensor are dequantized and quantized again, in a type that gguf can write.
    """

    def spoil(folder: Path) -> None:
        tensor = next(each for each in GGUFReader(folder / file, "r+").tensors if each.name == name)
        if tensor.tensor_type in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            tensor.data[...] = change(tensor.data.astype(np.float32)).astype(tensor.data.dtype)
        else:
            values = change(quants.dequantize(tensor.data, tensor.tensor_type))
            tensor.data[...] = quants.quantize(values.astype(np.float32), tensor.tensor_type)

    return spoil


def gaussian(share: float) -> Callable[[Any], Any]:
    """Return a change that adds noise, as a share of standard deviation."""
    return lambda values: values + share * values.std() * np.random.default_rng(3).standard_normal(values.shape)
