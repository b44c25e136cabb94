"""The base model as a GGUF file to quantize, made from the exported one.

The noise floor needs the base model as the export was quantized. llama.cpp's converter takes most of its time for the
vocabulary, which is that of the export, as are all settings, and all tensors that the adapter does not change, such as
norms. These are copied, quantized as they are; the others are written in 16 bits.

`python -m trainer.certificate.files.base_gguf TOOLS EXPORTED BASE ADAPTER TARGET`.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trainer.base_model import folder_contents
from trainer.certificate.files import gguf_weights
from trainer.certificate.files.weights import TrainedModel
from trainer.export.lora_weights import LoraWeights, canonical_name
from trainer.export.merge import EMBEDDINGS, encoding_of
from trainer.gguf.file_layout import Contents, Entry, InvalidGguf, contents
from trainer.new_tokens import embedding

if TYPE_CHECKING:
    from trainer.new_tokens.embedding import NewTokens

# Numbers of ggml's types of 32 and 16 bits.
F32, BF16 = 0, 30


def write(exported: Path, base: Path, adapter: Path, target: Path) -> None:
    """Write the base model in the layout of its export.

    Quantizing the file gives the tensors that quantizing the converted base model gives. exported: a GGUF file of base
    and adapter, which is known to be right. Raises InvalidGguf, StepError `bad_adapter`.
    """
    file, config, model = contents(exported), folder_contents.config_of(base), TrainedModel(base, None)
    names = {gguf_weights.name_in_gguf(name, config): name for name in model.names}
    lora, new_tokens, encode = LoraWeights(adapter), embedding.read(adapter), encoding_of("none")()
    changed = {*lora.modules, *(EMBEDDINGS if lora.rows or lora.whole else ())}
    trained = {entry.name for entry in file.entries if canonical_name(names.get(entry.name, "")) in changed}
    kinds = [BF16 if entry.name in trained and entry.kind != F32 else entry.kind for entry in file.entries]

    def values(entry: Entry, kind: int) -> bytes:
        if entry.name not in trained:
            with exported.open("rb") as source:
                source.seek(entry.offset)
                return source.read(_size(entry, kind))
        name = names[entry.name]
        weight = encode(name, _with_new_tokens(name, model.weight(name).value, new_tokens), True)[name]
        if weight.shape[1:] != entry.shape[1:] or len(weight) < entry.shape[0]:
            raise InvalidGguf(f"{entry.name} of {exported.name} has the shape {entry.shape}, not {tuple(weight.shape)}")
        flat = weight.reshape(-1)[: entry.count]  # a file may leave out rows that belong to no token
        return (flat.float() if kind == F32 else flat.view(torch.int16)).numpy().tobytes()

    with target.open("wb") as stream:
        stream.write(_header(file, kinds))
        for entry, kind in zip(file.entries, kinds, strict=True):
            stream.write(bytes(-stream.tell() % file.alignment))
            stream.write(values(entry, kind))
        stream.write(bytes(-stream.tell() % file.alignment))


def _with_new_tokens(name: str, weight: torch.Tensor, new_tokens: NewTokens | None) -> torch.Tensor:
    is_extended = new_tokens is not None and canonical_name(name) in EMBEDDINGS
    return new_tokens.extended(weight) if new_tokens is not None and is_extended else weight


def _header(file: Contents, kinds: list[int]) -> bytes:
    """Return the header of a file with other types of tensors, not padded."""
    with file.path.open("rb") as source:
        header = source.read(file.entries_at)
    return header + b"".join(_entries(file, kinds))


def _entries(file: Contents, kinds: list[int]) -> Iterator[bytes]:
    """Yield the entries of tensors that follow each other."""
    offset = 0
    for entry, kind in zip(file.entries, kinds, strict=True):
        name, dimensions = entry.name.encode(), tuple(reversed(entry.shape))
        yield struct.pack(
            f"<Q{len(name)}sI{len(dimensions)}QIQ", len(name), name, len(dimensions), *dimensions, kind, offset
        )
        offset += -(-_size(entry, kind) // file.alignment) * file.alignment


def _size(entry: Entry, kind: int) -> int:
    """Return the bytes of a tensor in a type of ggml."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    values, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return entry.count // values * size


if __name__ == "__main__":
    _, tools, *files = sys.argv
    sys.path.insert(0, str(Path(tools) / "gguf-py"))  # the version of gguf that belongs to the converter
    write(*map(Path, files))
