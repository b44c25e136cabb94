"""Ways to spoil an export, one per function; each gets the export's folder."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, quants
from safetensors.torch import load_file, save_file

from trainer.export.merge import NF4_PARTS

Sabotage = Callable[[Path], object]


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


def retyped(file: str, name: str, kind: GGMLQuantizationType) -> Sabotage:
    """Return a sabotage that writes a tensor of a GGUF file in another type.

    The file stays one that llama.cpp loads. kind: a type that gguf can write.
    """

    def spoil(folder: Path) -> None:
        reader = GGUFReader(folder / file)
        header, body = bytearray((folder / file).read_bytes()[: reader.data_offset]), bytearray()
        for tensor in sorted(reader.tensors, key=lambda each: each.data_offset):
            content = tensor.data.tobytes()
            # The last two parts of an entry are its type, of 4 bytes, and the place of its values, of 8.
            place = tensor.field.offset + sum(int(part.nbytes) for part in tensor.field.parts[:-2])
            if tensor.name == name:
                values = quants.dequantize(tensor.data, tensor.tensor_type)
                content = quants.quantize(values.astype(np.float32), kind).tobytes()
                struct.pack_into("<I", header, place, kind)
            struct.pack_into("<Q", header, place + 4, len(body))
            body += content + bytes(-len(content) % reader.alignment)
        (folder / file).write_bytes(header + body)

    return spoil


def gaussian(share: float) -> Callable[[Any], Any]:
    """Return a change that adds noise, as a share of standard deviation."""
    return lambda values: values + share * values.std() * np.random.default_rng(3).standard_normal(values.shape)


def in_section(file: str, *path: str, value: Any) -> Sabotage:
    """Return a sabotage that sets a field in a section of a JSON file.

    path: the names of sections, or indices of lists, down to the field.
    """

    def spoil(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        section = content
        for name in path[:-1]:
            section = section[int(name) if isinstance(section, list) else name]
        section[path[-1]] = value
        (folder / file).write_text(json.dumps(content))

    return spoil


def swap_layers(first: int, second: int) -> Sabotage:
    """Return a sabotage that exchanges all tensors of two layers."""

    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if f".layers.{first}." in name]:
            other = name.replace(f".layers.{first}.", f".layers.{second}.")
            weights[name], weights[other] = weights[other].clone(), weights[name].clone()

    return tensors(change)


def without_tensors(part: str, file: str) -> Sabotage:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if part in name]:
            del weights[name]

    return tensors(change, file)


def in_two_files(name: str) -> Sabotage:
    """Return a sabotage that adds a second file of weights.

    It has a tensor that the first one has too. The index names both.
    """

    def spoil(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        first, second = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
        save_file(weights, folder / first, metadata={"format": "pt"})
        save_file({name: weights[name] * 2}, folder / second, metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, first) | {name: second}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return spoil


def misplaced_in_index(name: str) -> Sabotage:
    """Return a sabotage that adds an index, which does not list a tensor."""

    def spoil(folder: Path) -> None:
        names = [each for each in load_file(folder / "model.safetensors") if each != name]
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return spoil


def smallest_nf4_scale(name: str, block: int) -> Sabotage:
    """Return a sabotage that makes the scale of one block in 4 bits too small.

    Scales are in 8 bits, of which 0 is the smallest.
    """

    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[f"{name}.absmax"][block] = 0

    return tensors(change)


def nf4_state(name: str, **values: Any) -> Sabotage:
    """Return a sabotage that changes settings of a tensor in 4 bits."""

    def change(weights: dict[str, torch.Tensor]) -> None:
        key = f"{name}.quant_state.bitsandbytes__nf4"
        state = json.loads(bytes(weights[key].tolist())) | values
        weights[key] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    return tensors(change)


def folder_of_templates(folder: Path) -> None:
    """Add a folder in which transformers looks for further chat templates."""
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages[0].content }}")


# Types of values in GGUF, as number and bytes.
_GGUF_VALUES: dict[type, Callable[[Any], tuple[int, bytes]]] = {
    int: lambda value: (4, struct.pack("<I", value)),
    float: lambda value: (6, struct.pack("<f", value)),
    bool: lambda value: (7, struct.pack("<?", value)),
    str: lambda value: (8, struct.pack("<Q", len(value.encode())) + value.encode()),
}


def _gguf_setting(key: str, value: Any) -> bytes:
    kind, content = _GGUF_VALUES[type(value)](value)
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + content


def added_setting(file: str, key: str, value: Any) -> Sabotage:
    """Return a sabotage that adds a setting to a GGUF file.

    A description before it makes both as long as the alignment of tensors needs.
    """

    def spoil(folder: Path) -> None:
        content, setting = (folder / file).read_bytes(), _gguf_setting(key, value)
        short = len(setting) + len(_gguf_setting("general.url", ""))
        setting += _gguf_setting("general.url", "-" * (-short % 32))
        (count,) = struct.unpack_from("<Q", content, 16)
        (folder / file).write_bytes(content[:16] + struct.pack("<Q", count + 2) + setting + content[24:])

    return spoil


def setting_text(file: str, key: str, value: str) -> Sabotage:
    """Return a sabotage that replaces a text of a GGUF file by one as long."""

    def spoil(folder: Path) -> None:
        content = (folder / file).read_bytes()
        at = content.index(key.encode()) + len(key) + 12  # behind the type and the length
        (folder / file).write_bytes(content[:at] + value.encode() + content[at + len(value) :])

    return spoil


def swap_gguf(file: str, first: str, second: str) -> Sabotage:
    """Return a sabotage that exchanges the data of two tensors of a GGUF file."""

    def spoil(folder: Path) -> None:
        named = {each.name: each.data for each in GGUFReader(folder / file, "r+").tensors}
        data = named[first].copy()
        named[first][...], named[second][...] = named[second], data

    return spoil


def scaled_block(file: str, name: str, factor: float) -> Sabotage:
    """Return a sabotage that scales one block of a quantized tensor.

    The types that gguf can write begin a block with its scale, a float16 number.
    """

    def spoil(folder: Path) -> None:
        tensor = next(each for each in GGUFReader(folder / file, "r+").tensors if each.name == name)
        _, size = GGML_QUANT_SIZES[tensor.tensor_type]
        scales = tensor.data.reshape(-1, size)[:, :2].view(np.float16)
        scales[len(scales) // 2] *= np.float16(factor)

    return spoil


def rounded_to(kind: GGMLQuantizationType) -> Callable[[Any], Any]:
    """Return a change that rounds values as a type of fewer bits does."""
    return lambda values: quants.dequantize(quants.quantize(values.astype(np.float32), kind), kind)
