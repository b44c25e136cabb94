"""llama.cpp by its own library: quantizes, tokenizes, and computes what a GGUF file answers. No torch.

`python -m trainer.gguf.llama_library quantize TOOLS SOURCE TARGET TYPE`
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

# Positions that are computed at once, and whose logits are in memory: 67 MB with Gemma's 262,144 tokens.
POSITIONS = 64
# A disk with less than this free, in bytes, is full.
FULL = 1 << 20


class LoadError(Exception):
    """llama.cpp does not take the file."""


@cache
def library(tools: Path) -> Any:
    """The bindings that belong to the library, loaded once a process."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(tools / "lib")
    sys.path.insert(0, str(tools / "bindings"))
    from llama_cpp import llama_cpp

    llama_cpp.llama_backend_init()
    return llama_cpp


def _threads() -> int:
    """As many as torch would use, which heeds this variable too."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) > 0 else os.cpu_count() or 1


@cache
def _quiet(here: Any) -> Any:
    """Takes what llama.cpp says, and drops it. It is called as long as the process lives."""
    return here.llama_log_callback(lambda level, text, user: None)


def quantize(tools: Path, source: Path, target: Path, llama_type: str) -> None:
    """Write `source` as a file whose weights mostly have this type.

    Raises OSError when the disk is full, and else RuntimeError; llama.cpp has said why on standard error.
    """
    here = library(tools)
    settings = here.llama_model_quantize_default_params()
    settings.ftype = getattr(here, f"LLAMA_FTYPE_MOSTLY_{llama_type}")
    settings.nthread = _threads()
    if here.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(settings)) != 0:
        if shutil.disk_usage(target.parent).free < FULL:  # it says no more than `iostream error`
            raise OSError(errno.ENOSPC, "No space left on device")
        raise RuntimeError(f"llama.cpp could not quantize {source.name}")


class LlamaModel:
    """A GGUF file as llama.cpp runs it. Raises LoadError."""

    def __init__(self, tools: Path, path: Path):
        self._here = library(tools)
        self._here.llama_log_set(_quiet(self._here), None)
        settings = self._here.llama_model_default_params()
        settings.check_tensors = True
        settings.n_gpu_layers = 0
        self._model = self._here.llama_model_load_from_file(os.fsencode(path), settings)
        if not self._model:
            raise LoadError(f"llama.cpp cannot load {path.name}")
        self._vocab = self._here.llama_model_get_vocab(self._model)
        self.vocab_size = int(self._here.llama_vocab_n_tokens(self._vocab))

    @property
    def chat_template(self) -> str | None:
        """The one in the file."""
        template = self._here.llama_model_chat_template(self._model, None)
        return None if template is None else template.decode()

    @property
    def bos(self) -> str:
        """What llama.cpp and Ollama put in front of a prompt."""
        if not self._here.llama_vocab_get_add_bos(self._vocab):
            return ""
        return str(self._here.llama_vocab_get_text(self._vocab, self._here.llama_vocab_bos(self._vocab)).decode())

    def tokens(self, text: str) -> list[int]:
        """The ids of a text in which special tokens are written out."""
        encoded = text.encode()
        room = len(encoded) + 8
        buffer = (self._here.llama_token * room)()
        count = self._here.llama_tokenize(self._vocab, encoded, len(encoded), buffer, room, False, True)
        return list(buffer[:count])

    def text(self, tokens: Sequence[int]) -> str:
        """Without special tokens."""
        pieces = b""
        for token in tokens:
            buffer = ctypes.create_string_buffer(256)
            size = self._here.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
            pieces += buffer.raw[: max(size, 0)]
        return pieces.decode(errors="replace")

    def ends(self, token: int) -> bool:
        """Whether llama.cpp stops at this token by itself."""
        return bool(self._here.llama_vocab_is_eog(self._vocab, token))

    def logits(self, tokens: Sequence[int], wanted: Collection[int]) -> Iterator[np.ndarray[Any, Any]]:
        """Of the wanted positions, in their order, some at a time: (positions, vocabulary) in float32, whose memory is
        used again for the next ones."""
        context = self._context(len(tokens))
        try:
            for start in range(0, len(tokens), POSITIONS):
                chunk = range(start, min(start + POSITIONS, len(tokens)))
                asked = [position for position in chunk if position in wanted]
                self._decode(context, tokens, chunk, asked)
                if asked:
                    yield self._outputs(context, len(asked))
        finally:
            self._here.llama_free(context)

    def answer(self, prompt: Sequence[int], limit: int) -> list[int]:
        """The likeliest token each time, until one that ends."""
        found: list[int] = []
        context = self._context(len(prompt) + limit)
        try:
            tokens = list(prompt)
            done = 0
            while len(found) < limit:
                for start in range(done, len(tokens), POSITIONS):
                    chunk = range(start, min(start + POSITIONS, len(tokens)))
                    self._decode(context, tokens, chunk, [chunk[-1]])
                done = len(tokens)
                best = int(self._outputs(context, 1)[0].argmax())
                if self.ends(best):
                    break
                found.append(best)
                tokens.append(best)
        finally:
            self._here.llama_free(context)
        return found

    def _context(self, length: int) -> Any:
        settings = self._here.llama_context_default_params()
        settings.n_ctx = length
        settings.n_batch = settings.n_ubatch = POSITIONS
        settings.n_threads = settings.n_threads_batch = _threads()
        context = self._here.llama_init_from_model(self._model, settings)
        if not context:
            raise LoadError("llama.cpp can make no context for the model")
        return context

    def _decode(self, context: Any, tokens: Sequence[int], chunk: range, asked: Collection[int]) -> None:
        batch = self._here.llama_batch_init(len(chunk), 0, 1)
        batch.n_tokens = len(chunk)
        for index, position in enumerate(chunk):
            batch.token[index] = tokens[position]
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = position in asked
        try:
            if self._here.llama_decode(context, batch) != 0:
                raise LoadError("llama.cpp could not compute with the model")
        finally:
            self._here.llama_batch_free(batch)

    def _outputs(self, context: Any, count: int) -> np.ndarray[Any, Any]:
        pointer = self._here.llama_get_logits(context)
        return np.ctypeslib.as_array(pointer, shape=(count, self.vocab_size))


if __name__ == "__main__":
    _, given_tools, given_source, given_target, wanted = sys.argv[1:]
    quantize(Path(given_tools), Path(given_source), Path(given_target), wanted)
