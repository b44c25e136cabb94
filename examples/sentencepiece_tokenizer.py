"""Conversion of Gemma's sentencepiece vocabulary to a fast tokenizer.

The fast tokenizer gives a text the same ids as sentencepiece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import GemmaTokenizer

# Kinds of pieces: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPACE = "▁"


@dataclass(frozen=True, slots=True)
class Piece:
    """Entry of a sentencepiece vocabulary. Higher scores are merged first."""

    text: str
    score: float
    kind: int

    @property
    def is_blank(self) -> bool:
        """True for a run of one kind of white space."""
        return self.kind == USER_DEFINED and set(self.text) in ({SPACE}, {"\n"}, {"\t"})


def fast_tokenizer(pieces: Sequence[Piece], *, special: Sequence[str], **settings: Any) -> GemmaTokenizer:
    """Return a GemmaTokenizer with these pieces.

    User-defined pieces are found first, the longest at each place, as sentencepiece does; those of spaces after spaces
    became `▁`. Control pieces are found as well, which sentencepiece leaves to its callers, and llama.cpp does too.

    pieces: sorted by id. special: control pieces that begin and end turns. settings: further arguments of
    GemmaTokenizer. Raises ValueError if the tokenizer has another number of tokens.
    """
    from tokenizers import AddedToken
    from transformers import GemmaTokenizer

    ids = {piece.text: index for index, piece in enumerate(pieces)}
    merges = [(left, right) for _, _, _, left, right in sorted(_merges(pieces, ids))]
    # `merges` is annotated as a list of strings, but the class that it is passed to takes pairs.
    tokenizer = GemmaTokenizer(vocab=ids, merges=merges, add_bos_token=True, **settings)  # type: ignore[arg-type]
    tokenizer.add_special_tokens({"extra_special_tokens": list(special)})
    whole = [piece for piece in pieces if piece.kind in (USER_DEFINED, CONTROL)]
    added = tokenizer.get_added_vocab()
    tokenizer.add_tokens(
        [AddedToken(piece.text, normalized=piece.is_blank, special=False) for piece in whole if piece.text not in added]
    )
    if len(tokenizer) != len(pieces):
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, its vocabulary {len(pieces)}")
    return tokenizer


def _merges(pieces: Sequence[Piece], ids: dict[str, int]) -> Iterator[tuple[float, int, int, str, str]]:
    """Yield every pair of pieces that can be merged, with a key to sort by.

    The key puts them in sentencepiece's order: by the score of the merged piece, highest first. Returns (order, id of
    left, id of right, left, right).
    """
    for piece in pieces:
        if piece.kind == NORMAL:
            for cut in range(1, len(piece.text)):
                left, right = piece.text[:cut], piece.text[cut:]
                if left in ids and right in ids:
                    yield -piece.score, ids[left], ids[right], left, right


def write_model(pieces: Sequence[Piece], path: Path) -> None:
    """Write sentencepiece's `tokenizer.model`, for llama.cpp's converter."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = 2  # BPE
    model.trainer_spec.vocab_size = len(pieces)
    model.trainer_spec.byte_fallback = True
    for index, name in enumerate(("pad", "eos", "bos", "unk")):
        setattr(model.trainer_spec, f"{name}_id", index)
        setattr(model.trainer_spec, f"{name}_piece", pieces[index].text)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    for index, piece in enumerate(pieces):
        kind = UNKNOWN if index == 3 else piece.kind
        model.pieces.add(piece=piece.text, score=piece.score if kind == NORMAL else 0.0, type=kind)
    path.write_bytes(model.SerializeToString())
