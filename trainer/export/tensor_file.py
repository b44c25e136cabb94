"""Writes a safetensors file a tensor at a time, so that no more than one of them is in memory.

Format: eight bytes with the length of a JSON header, the header (name -> dtype, shape, offsets), and the tensors
without gaps (https://github.com/huggingface/safetensors#format). Room for the header is kept at the beginning, as only
the end knows what it says; a header may end in spaces.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.store.file_writer import FileWriter

if TYPE_CHECKING:
    import torch

DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "uint8": "U8", "int64": "I64", "int32": "I32"}
# Readers map the file and take a tensor as a view, which has to begin at a multiple of its item's size.
ALIGNMENT = 8
# Bytes of header that a tensor takes: its name, and what goes with it.
ROOM = 160


class TensorFile(FileWriter):
    """A safetensors file in the making; it is whole after the `with` block. names: all that will be added, for the
    header's size; fewer may be."""

    def __init__(self, path: Path, names: list[str]):
        self._file = path.open("wb")
        self._room = -(-sum(len(name) + ROOM for name in [*names, ""]) // ALIGNMENT) * ALIGNMENT
        self._file.seek(8 + self._room)
        self._entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self._offset = 0
        self._odd: list[tuple[str, torch.Tensor]] = []

    def add(self, name: str, tensor: torch.Tensor) -> int:
        """Write a tensor; return its bytes. One whose bytes are no multiple of ALIGNMENT, such as a single scale, is
        written last: a reader could not map what came behind it."""
        size = tensor.numel() * tensor.element_size()
        if size % ALIGNMENT:
            self._odd.append((name, tensor))
        else:
            self._write(name, tensor)
        return size

    def _write(self, name: str, tensor: torch.Tensor) -> None:
        import torch

        flat = tensor.detach().contiguous().reshape(-1)
        size = flat.numel() * flat.element_size()
        self._file.write(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]
        self._entries[name] = {
            "dtype": DTYPES[str(tensor.dtype).removeprefix("torch.")],
            "shape": list(tensor.shape),
            "data_offsets": [self._offset, self._offset + size],
        }
        self._offset += size

    def _close(self) -> None:
        self._file.close()

    def _finish(self) -> None:
        for name, tensor in sorted(self._odd, key=lambda odd: -odd[1].element_size()):
            self._write(name, tensor)
        header = json.dumps(self._entries, separators=(",", ":")).encode()
        if len(header) > self._room:
            raise ValueError(f"the header has {len(header)} bytes, {self._room} were kept for it")
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + header.ljust(self._room))
