"""Bindings to llama.cpp's library: tokens, logits and answers. No torch."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

# Types in which llama.cpp can keep keys and values, by their numbers in ggml: q8_0 and bf16.
EIGHT_BITS, BF16 = 8, 30
# Positions per batch. Their logits are in memory at once: 67 MB for Gemma's vocabulary of 262,144.
POSITIONS = 64
# Smallest share of the processors' time at which several threads are faster than one, and the seconds over which it is
# measured. On 2 cores with a load of 10 two threads got a fifth of it, and took 2 to 10 times as long: see
# bench/RESULTS.md.
LEAST_SHARE, MEASURED_SECONDS = 0.6, 0.5


class LoadError(Exception):
    """Raised when llama.cpp cannot load or run a file."""


@cache
def library(tools: Path) -> Any:
    """Return llama.cpp's bindings, loaded and initialized once per process."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(tools / "lib")
    sys.path.insert(0, str(tools / "bindings"))
    from llama_cpp import llama_cpp

    llama_cpp.llama_backend_init()
    return llama_cpp


def thread_count() -> int:
    """Return the number of threads; OMP_NUM_THREADS sets it, as for torch."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    return int(setting) if setting.isdigit() and int(setting) > 0 else os.cpu_count() or 1


def threads_after(threads: int, wall: float, processor: float) -> int:
    """Return how many threads to compute with, after a computation with some.

    wall, processor: seconds that it took on the clock and on all processors. llama.cpp's threads wait for each other in
    loops after every operation, so if other programs take the processor from one of them, all are held up. One thread
    waits for nobody.
    """
    return threads if processor >= LEAST_SHARE * threads * wall else 1


@cache
def silent_log(llama: Any) -> Any:
    """Return a log callback that drops llama.cpp's messages.

    It is cached so that it lives as long as llama.cpp may call it.
    """
    return llama.llama_log_callback(lambda level, text, user: None)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Options of drawing tokens at random.

    temperature: divides the logits. top_p: the most likely tokens with this probability together are drawn from. seed:
    of the random generator.
    """

    temperature: float
    top_p: float
    seed: int


class LlamaModel:
    """A GGUF file that llama.cpp runs, on the CPU. Raises LoadError."""

    def __init__(self, tools: Path, path: Path):
        self._llama = library(tools)
        self._llama.llama_log_set(silent_log(self._llama), None)
        settings = self._llama.llama_model_default_params()
        settings.check_tensors = True
        settings.n_gpu_layers = 0
        self._model = self._llama.llama_model_load_from_file(os.fsencode(path), settings)
        if not self._model:
            raise LoadError(f"llama.cpp cannot load {path.name}")
        self._vocab = self._llama.llama_model_get_vocab(self._model)
        self.vocab_size = int(self._llama.llama_vocab_n_tokens(self._vocab))
        self._threads = thread_count()
        self._wall = self._processor = 0.0  # seconds of computing on the clock and on all processors

    @property
    def chat_template(self) -> str | None:
        """The chat template in the file."""
        template = self._llama.llama_model_chat_template(self._model, None)
        return None if template is None else template.decode()

    @property
    def context_length(self) -> int:
        """The number of tokens that the model was trained to read."""
        return int(self._llama.llama_model_n_ctx_train(self._model))

    @property
    def bos(self) -> str:
        """The text that llama.cpp and Ollama put in front of a prompt, or ""."""
        if not self._llama.llama_vocab_get_add_bos(self._vocab):
            return ""
        return str(self._llama.llama_vocab_get_text(self._vocab, self._llama.llama_vocab_bos(self._vocab)).decode())

    @property
    def bos_token(self) -> int:
        """The token that llama.cpp puts in front of a prompt."""
        return int(self._llama.llama_vocab_bos(self._vocab))

    def special_tokens(self) -> dict[str, Any]:
        """Return the texts of special tokens, as tokenizer_config.json."""
        tokens = {"bos_token": self.bos_token, "eos_token": int(self._llama.llama_vocab_eos(self._vocab))}
        return {name: self._llama.llama_vocab_get_text(self._vocab, token).decode() for name, token in tokens.items()}

    def pieces(self) -> list[str]:
        """Return the text of every token, in the order of the file."""
        texts = (self._llama.llama_vocab_get_text(self._vocab, token) for token in range(self.vocab_size))
        return [bytes(text).decode(errors="replace") for text in texts]

    def tokens(self, text: str) -> list[int]:
        """Tokenize a text that contains its special tokens, and add no others."""
        encoded = text.encode()
        room = len(encoded) + 8
        buffer = (self._llama.llama_token * room)()
        count = self._llama.llama_tokenize(self._vocab, encoded, len(encoded), buffer, room, False, True)
        return list(buffer[:count])

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens, without special tokens."""
        pieces = b""
        for token in tokens:
            buffer = ctypes.create_string_buffer(256)
            size = self._llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
            if size < 0:  # the buffer is too small for a piece of -size bytes
                buffer = ctypes.create_string_buffer(-size)
                size = self._llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
            pieces += buffer.raw[: max(size, 0)]
        return pieces.decode(errors="replace")

    def ends(self, token: int) -> bool:
        """Return whether llama.cpp stops generating at a token."""
        return bool(self._llama.llama_vocab_is_eog(self._vocab, token))

    def logits(
        self, tokens: Sequence[int], positions: Collection[int], *, rounded: int | None = None
    ) -> Iterator[np.ndarray[Any, Any]]:
        """Yield the logits of some positions, in order.

        Blocks are (at most POSITIONS positions, vocabulary) in float32. The next block reuses their memory. rounded:
        how keys and values are kept; None for float16. For EIGHT_BITS llama.cpp needs heads of a multiple of 32
        dimensions. Raises LoadError.
        """
        end = 1 + max(positions, default=-1)
        context = self._context(len(tokens), rounded=rounded)
        try:
            for start in range(0, end, POSITIONS):
                chunk = range(start, min(start + POSITIONS, end))
                outputs = [position for position in chunk if position in positions]
                self._decode(context, tokens, chunk, outputs)
                if outputs:
                    yield self._logits(context, len(outputs))
        finally:
            self._llama.llama_free(context)

    def answer(self, prompt: Sequence[int], limit: int) -> list[int]:
        """Generate up to `limit` tokens greedily; leave out the end token."""
        return list(self.generate(prompt, limit))

    def generate(self, prompt: Sequence[int], limit: int, sampling: Sampling | None = None) -> Iterator[int]:
        """Yield up to `limit` tokens of an answer, without its end token.

        sampling: None takes the most likely token.
        """
        context, sampler = self._context(len(prompt) + limit), self._sampler(sampling)
        try:
            tokens, done = list(prompt), 0
            while len(tokens) - len(prompt) < limit:
                for start in range(done, len(tokens), POSITIONS):
                    chunk = range(start, min(start + POSITIONS, len(tokens)))
                    self._decode(context, tokens, chunk, [chunk[-1]])
                done = len(tokens)
                if sampler is None:
                    token = int(self._logits(context, 1)[0].argmax())
                else:
                    token = int(self._llama.llama_sampler_sample(sampler, context, -1))
                if self.ends(token):
                    break
                tokens.append(token)
                yield token
        finally:
            if sampler is not None:
                self._llama.llama_sampler_free(sampler)
            self._llama.llama_free(context)

    def _sampler(self, sampling: Sampling | None) -> Any:
        """Return llama.cpp's sampler, or None for the most likely token."""
        if sampling is None:
            return None
        llama = self._llama
        chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_temp(sampling.temperature))
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_top_p(sampling.top_p, 1))
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_dist(sampling.seed))
        return chain

    def _context(self, length: int, *, rounded: int | None = None) -> Any:
        settings = self._llama.llama_context_default_params()
        if rounded is not None:
            settings.type_k = settings.type_v = rounded
        settings.n_ctx = length
        settings.n_batch = settings.n_ubatch = POSITIONS
        settings.n_threads = settings.n_threads_batch = self._threads
        context = self._llama.llama_init_from_model(self._model, settings)
        if not context:
            raise LoadError("llama.cpp cannot create a context for the model")
        return context

    def _decode(self, context: Any, tokens: Sequence[int], chunk: range, outputs: Collection[int]) -> None:
        """Compute the positions of a chunk, and keep the logits of `outputs`."""
        batch = self._llama.llama_batch_init(len(chunk), 0, 1)
        batch.n_tokens = len(chunk)
        for index, position in enumerate(chunk):
            batch.token[index] = tokens[position]
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = position in outputs
        self._wall -= time.perf_counter()
        self._processor -= time.process_time()
        try:
            if self._llama.llama_decode(context, batch) != 0:
                raise LoadError("llama.cpp cannot run the model")
        finally:
            self._llama.llama_batch_free(batch)
        self._wall += time.perf_counter()
        self._processor += time.process_time()
        if self._wall >= MEASURED_SECONDS:
            self._threads = threads_after(self._threads, self._wall, self._processor)
            self._llama.llama_set_n_threads(context, self._threads, self._threads)
            self._wall = self._processor = 0.0

    def _logits(self, context: Any, count: int) -> np.ndarray[Any, Any]:
        """Return a view of the context's logits, (count, vocabulary)."""
        pointer = self._llama.llama_get_logits(context)
        return np.ctypeslib.as_array(pointer, shape=(count, self.vocab_size))
