"""The demo's tokenizer.json gives every text the ids of its tokenizer.model."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from examples.sentencepiece_tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    Piece,
    fast_tokenizer,
    write_model,
)

WORDS = ("the", "he", "▁the", "▁a", "an", "▁an", "th", "▁t", "▁▁a", "ab", "abc", "bc", "1", "un", "used")
LETTERS = f"{SPACE}abcdefghtunsd<>1ü日"
# A word that begins or ends with more blanks than the longest piece of blanks has.
PARTS = (
    " ",
    "  ",
    " " * 31,
    " " * 40,
    "\t",
    "\t\t\t",
    "\n",
    "\n" * 5,
    "the",
    "an",
    "abc",
    "1",
    "ü",
    "日",
    "🙂",
    "<x>",
    SPACE,
)


def vocabulary() -> list[Piece]:
    """Return a small vocabulary with every kind of piece that Gemma's has."""
    pieces = [Piece(text, 0.0, CONTROL) for text in ("<pad>", "<eos>", "<bos>")]
    pieces += [
        Piece("<unk>", 0.0, UNKNOWN),
        Piece("<mask>", 0.0, CONTROL),
        *(Piece(f"<unused{index}>", 0.0, CONTROL) for index in range(3)),
    ]
    pieces += [Piece("<turn>", 0.0, CONTROL), Piece("<x>", 0.0, USER_DEFINED)]
    pieces += [Piece("\n" * count, 0.0, USER_DEFINED) for count in range(1, 5)]
    pieces += [Piece("\t" * count, 0.0, USER_DEFINED) for count in (1, 2)]
    pieces += [Piece(SPACE * count, 0.0, USER_DEFINED) for count in range(2, 32)]
    pieces += [Piece(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    texts = dict.fromkeys((*WORDS, *LETTERS))
    return pieces + [Piece(text, -float(index), NORMAL) for index, text in enumerate(texts) if text != "▁▁a"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, SentencePieceProcessor]:
    folder = tmp_path_factory.mktemp("tokenizer")
    fast_tokenizer(vocabulary(), special=("<turn>",)).save_pretrained(folder)
    write_model(vocabulary(), folder / "tokenizer.model")
    path = Path(folder / "tokenizer.model")
    return Tokenizer.from_file(str(folder / "tokenizer.json")), SentencePieceProcessor(model_file=str(path))


def test_random_texts_have_the_same_ids(tokenizers: tuple[Tokenizer, SentencePieceProcessor]) -> None:
    fast, sentencepiece = tokenizers
    draw = random.Random(0)
    for _ in range(3000):
        text = "".join(draw.choice(PARTS) * draw.choice((1, 1, 2, 5)) for _ in range(draw.randint(1, 8)))
        ids = fast.encode(text, add_special_tokens=False).ids
        assert ids == sentencepiece.encode(text), repr(text)
        assert fast.decode(ids) == text.replace(SPACE, " ")


@pytest.mark.parametrize("length", range(1, 160))
def test_a_run_of_blanks_of_any_length_has_the_same_ids(
    tokenizers: tuple[Tokenizer, SentencePieceProcessor], length: int
) -> None:
    fast, sentencepiece = tokenizers
    for text in (" " * length, f"a{' ' * length}b", "\n" * length):
        assert fast.encode(text, add_special_tokens=False).ids == sentencepiece.encode(text)


def test_a_control_token_is_one_token_as_in_llama_cpp(tokenizers: tuple[Tokenizer, SentencePieceProcessor]) -> None:
    fast, sentencepiece = tokenizers
    for text in ("<unused0>", "<unused1>", "<turn>", "<bos>"):
        assert fast.encode(text, add_special_tokens=False).ids == [sentencepiece.piece_to_id(text)]
