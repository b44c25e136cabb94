"""Writer of safetensors files, with only one tensor in memory at a time.

Format (https://github.com/huggingface/safetensors#format): eight bytes with the length of a JSON header, the header
(name -> dtype, shape, offsets), and the tensors without gaps. The header is complete only at the end, so space for it
is reserved at the beginning; the format allows it to end with spaces.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.store.file_writer import FileWriter

if TYPE_CHECKING:
    import torch

DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "uint8": "U8", "int64": "I64", "int32": "I32"}
# Readers map the file and use tensors as views, which must begin at a multiple of their item size.
ALIGNMENT = 8
# Bytes of a header entry besides the tensor's name, at most.
ENTRY_BYTES = 160


class TensorFile(FileWriter):
    """Unfinished safetensors file. Leaving its `with` block completes it.

    names: names of all tensors that may be added, from which the space for the header is computed.
    """

    def __init__(self, path: Path, names: list[str]):
        self._file = path.open("wb")
        self._header_bytes = -(-sum(len(name) + ENTRY_BYTES for name in [*names, ""]) // ALIGNMENT) * ALIGNMENT
        self._file.seek(8 + self._header_bytes)
        self._entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self._offset = 0
        self._unaligned: list[tuple[str, torch.Tensor]] = []

    def add(self, name: str, tensor: torch.Tensor) -> int:
        """Write a tensor and return its size in bytes.

        A tensor whose size is no multiple of ALIGNMENT, such as a single scale, is kept and written last, because it
        would misalign all tensors behind it.
        """
        size = tensor.numel() * tensor.element_size()
        if size % ALIGNMENT:
            self._unaligned.append((name, tensor))
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
        for name, tensor in sorted(self._unaligned, key=lambda entry: -entry[1].element_size()):
            self._write(name, tensor)
        header = json.dumps(self._entries, separators=(",", ":")).encode()
        if len(header) > self._header_bytes:
            raise ValueError(f"the header has {len(header)} bytes, but only {self._header_bytes} were reserved for it")
        self._file.seek(0)
        self._file.write(self._header_bytes.to_bytes(8, "little") + header.ljust(self._header_bytes))
