"""llama.cpp's quantizer, and the types that it gives tensors. No torch.

`python -m trainer.gguf.quantizer quantize TOOLS SOURCE TARGET TYPE` quantizes a GGUF file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainer.gguf.llama_library import LoadError, library, silent_log, thread_count

Floats = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

# A disk with fewer free bytes counts as full.
MIN_FREE_BYTES = 1 << 20


def quantize(tools: Path, source: Path, target: Path, llama_type: str) -> None:
    """Quantize a GGUF file so that most of its weights have a type.

    llama_type: the end of an LLAMA_FTYPE_MOSTLY_… constant, such as Q4_K_M. Raises OSError if the disk is full, and
    otherwise RuntimeError; llama.cpp has written the reason to standard error.
    """
    llama = library(tools)
    settings = llama.llama_model_quantize_default_params()
    settings.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{llama_type}")
    settings.nthread = thread_count()
    if llama.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(settings)) != 0:
        if shutil.disk_usage(target.parent).free < MIN_FREE_BYTES:  # llama.cpp only writes `iostream error`
            raise OSError(errno.ENOSPC, "No space left on device")
        raise RuntimeError(f"llama.cpp could not quantize {source.name}")


def dequantizer(tools: Path) -> Callable[[Bytes, str], Floats]:
    """Return ggml's dequantization, from (blocks, bytes) to (blocks, values).

    Its second argument is ggml's name of a type.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    ggml = library(tools)._lib  # the functions of ggml are among the dependencies of llama.cpp's library

    def dequantized(blocks: Bytes, kind: str) -> Floats:
        count, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        source, values = np.ascontiguousarray(blocks).reshape(-1, size), np.empty((len(blocks), count), np.float32)
        function = ggml[f"dequantize_row_q{kind.removeprefix('Q')}"]
        function(*(ctypes.c_void_p(each.ctypes.data) for each in (source, values)), ctypes.c_int64(values.size))
        return values

    return dequantized


# A line of the quantizer's log: a tensor's name, its type, and the type that it gets, if that is another one.
_PLANNED = re.compile(r"\[ *\d+/ *\d+\] (\S+) +- \[.*\], type = +(\w+), size = [^\n]*?(?:-> [^\n]*\((\w+)\))?\n")


def quantized_types(tools: Path, path: Path, llama_type: str) -> dict[str, str | None]:
    """Return by tensor the type that llama.cpp's quantizer gives it.

    It is None if the quantizer leaves the tensor alone, as it does with norms. Nothing is quantized, and no values are
    read: the types follow from the names and shapes of a file's tensors, and from its metadata. llama_type: as for
    `quantize`. Raises LoadError.
    """
    planned = _planned_types(tools, path, f"MOSTLY_{llama_type}")
    left = {
        name
        for name, (present, new) in _planned_types(tools, path, "ALL_F32").items()
        if new is None and present != "F32"
    }
    # A tensor that is F32 already does not show in the second plan, but is quantized in the first one if it can be.
    return {
        name: new or (None if name in left or present == "F32" else present) for name, (present, new) in planned.items()
    }


def _planned_types(tools: Path, path: Path, file_type: str) -> dict[str, tuple[str, str | None]]:
    """Return by tensor its type, and the one that quantizing would give it.

    The second is None if it is the same. file_type: the end of an LLAMA_FTYPE_… constant.
    """
    llama = library(tools)
    settings = llama.llama_model_quantize_default_params()
    settings.ftype = getattr(llama, f"LLAMA_FTYPE_{file_type}")
    settings.dry_run = settings.allow_requantize = True
    log: list[bytes] = []
    callback = llama.llama_log_callback(lambda level, text, user: log.append(text))
    llama.llama_log_set(callback, None)
    try:
        failed = llama.llama_model_quantize(os.fsencode(path), os.fsencode(path), ctypes.byref(settings)) != 0
    finally:
        llama.llama_log_set(silent_log(llama), None)
    text = b"".join(log).decode(errors="replace")
    if failed:
        raise LoadError(f"llama.cpp cannot quantize {path.name}: {text.strip()[-200:]}")
    return {name: (present.upper(), new.upper() or None) for name, present, new in _PLANNED.findall(text)}


if __name__ == "__main__":
    _, tools_folder, source_file, target_file, target_type = sys.argv[1:]
    quantize(Path(tools_folder), Path(source_file), Path(target_file), target_type)
