"""Logits of models in llama.cpp, each in a process of its own.

`python shapes_program.py TOOLS FOLDER…`. Each folder has a model and `tokens.json`, a list of token ids. If llama.cpp
converts, loads and computes the model, the folder gets `logits.npy`, (positions, vocabulary) in float32.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    tools, *folders = (Path(argument) for argument in sys.argv[1:])
    sys.path[:0] = [str(tools / "gguf-py"), str(tools)]
    os.environ["GGML_NO_BACKTRACE"] = "1"  # a debugger takes ten seconds
    os.environ["OMP_NUM_THREADS"] = "1"  # threads of llama.cpp wait for each other in loops
    import conversion  # type: ignore[import-not-found]  # noqa: F401
    import transformers.models.auto.tokenization_auto

    from trainer.gguf import llama_library  # noqa: F401

    transformers.models.auto.tokenization_auto.AutoTokenizer  # noqa: B018
    for folder in folders:
        process = os.fork()
        if process == 0:
            _compute(tools, folder)
        os.waitpid(process, 0)


def _compute(tools: Path, folder: Path) -> None:
    """Write the logits of a model, and end the process."""
    code = 1
    try:
        sys.argv = ["convert", str(folder), "--outtype", "f32", "--outfile", str(folder / "model.gguf")]
        try:
            runpy.run_path(str(tools / "convert_hf_to_gguf.py"), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
        from trainer.gguf.llama_library import LlamaModel

        ids = json.loads((folder / "tokens.json").read_text())
        blocks = LlamaModel(tools, folder / "model.gguf").logits(ids, range(len(ids)))
        np.save(folder / "logits.npy", np.concatenate([block.copy() for block in blocks]))
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
