"""Text of tokens that llama.cpp gives by pieces, and its threads."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.gguf.llama_library import LlamaModel, threads_after

PIECES = {5: "<ask>", 6: "\N{GRINNING FACE}" * 100, 7: "é"}


def token_to_piece(vocab: object, token: int, buffer: Any, length: int, strip: int, special: bool) -> int:
    """Write a piece, or return its negative size, as llama.cpp does."""
    piece = PIECES[token].encode()
    if len(piece) > length:
        return -len(piece)
    ctypes.memmove(buffer, piece, len(piece))
    return len(piece)


def test_a_new_token_of_a_hundred_characters_is_decoded_whole() -> None:
    model: Any = LlamaModel.__new__(LlamaModel)
    model._vocab, model._llama = None, SimpleNamespace(llama_token_to_piece=token_to_piece)
    assert LlamaModel.text(model, [5, 6, 7]) == "".join(PIECES.values())


@pytest.mark.parametrize(
    ("threads", "wall", "processor", "after"),
    [(2, 1.0, 1.9, 2), (2, 1.0, 1.2, 2), (2, 1.0, 0.5, 1), (8, 1.0, 2.0, 1), (1, 1.0, 0.1, 1), (2, 0.0, 0.0, 2)],
)
def test_one_thread_computes_if_others_would_wait_for_the_processor(
    threads: int, wall: float, processor: float, after: int
) -> None:
    assert threads_after(threads, wall, processor) == after
