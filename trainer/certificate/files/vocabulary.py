"""Check of a GGUF file's vocabulary against the tokenizer of the training.

Texts, types and scores of all tokens, the order of merges, and the special tokens. Prompts of a certificate cover some
hundreds of the 262,144 tokens; the others are as easily wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.conversation.chat_template import json_object, token_text
from trainer.export.tokenizer_files import end_tokens
from trainer.gguf.llama_library import LlamaModel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TYPES, SCORES, MERGES = (f"tokenizer.ggml.{name}" for name in ("token_type", "scores", "merges"))
# Long arrays of the file that `problems` reads.
ARRAYS = (TYPES, SCORES, MERGES)
# Types of tokens, by the same numbers in GGUF and SentencePiece.
NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6
# llama.cpp's converter gives these scores to added tokens, and to all tokens of a vocabulary of merges.
ADDED_SCORE = -1000.0
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# Texts of tokens that llama.cpp's converter takes for control tokens, whatever their flags say.
_LOOKS_SPECIAL = re.compile(r"<(pad|mask|2mass|unused.*|\|.*\|)>|\[@BOS@\]", re.DOTALL)
# Keys of the file, and fields of tokenizer_config.json. The beginning of a text is compared in llama.cpp.
SPECIAL = (
    ("eos_token_id", "eos_token"),
    ("padding_token_id", "pad_token"),
    ("unknown_token_id", "unk_token"),
    ("seperator_token_id", "sep_token"),
    ("mask_token_id", "mask_token"),
    ("cls_token_id", "cls_token"),
)
# Further tokens at which llama.cpp stops. Its converter writes the number of real Gemma's <end_of_turn> into the files
# of every Gemma 1.
ENDS, END_OF_TURN_OF_GEMMA_1 = ("eot_token_id", "eom_token_id"), 107
# Rules by which llama.cpp splits texts before it looks for tokens, by kind of vocabulary. It has a default, and other
# names for the vocabularies of other models.
SPLITTING = {"llama": "default", "gemma4": None}
# Settings that change tokens, and their values in every Gemma. Without one llama.cpp takes the default, the third.
FLAGS = (
    ("add_space_prefix", False, True),
    ("add_bos_token", True, True),
    ("add_eos_token", False, False),
    ("add_sep_token", False, False),
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokenizer of the training, and the number of every token by its text.

    Each takes a second to read or copy.
    """

    tokenizer: Tokenizer
    numbers: Mapping[str, int]

    @classmethod
    def read(cls, trained: Path) -> Vocabulary:
        """Read the tokenizer of a folder."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(trained / "tokenizer.json"))
        return cls(tokenizer, tokenizer.get_vocab())

    @property
    def count(self) -> int:
        """Number of tokens."""
        return 1 + max(self.numbers.values())


def problems(
    model: LlamaModel, metadata: Mapping[str, Any], trained: Path, vocabulary: Vocabulary, tokens: int
) -> list[str]:
    """Return in sentences how vocabulary and special tokens differ.

    model: the file in llama.cpp. metadata: of the file, with ARRAYS. trained: folder with the tokenizer of training.
    tokens: the number of its first tokens that have rows in the embedding; the file has no others.
    """
    return [
        *_kind_of_vocabulary_problems(metadata, trained),
        *_text_problems(model.pieces(), vocabulary),
        *_kind_problems(metadata, trained, vocabulary, tokens),
        *_merge_problems(metadata, trained),
        *_special_problems(model, metadata, trained, vocabulary.tokenizer),
        *_end_problems(metadata, trained),
    ]


def _kind_of_vocabulary_problems(metadata: Mapping[str, Any], trained: Path) -> list[str]:
    of_pieces = "llama" if (trained / "tokenizer.model").is_file() else "gpt2"
    expected = "gemma4" if metadata.get("general.architecture") == "gemma4" else of_pieces
    kind, splitting = (metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    wrong = [] if kind == expected else [f"its vocabulary is of the kind {kind!r}, not {expected!r}"]
    if expected in SPLITTING and splitting != SPLITTING[expected]:
        wrong.append(f"it splits texts as {splitting!r}, not as {SPLITTING[expected]!r}")
    return wrong


def _text_problems(pieces: Sequence[str], vocabulary: Vocabulary) -> list[str]:
    # llama.cpp's converter writes the blanks of added tokens as they are, and SentencePiece marks them.
    wrong = [
        index
        for piece, index in vocabulary.numbers.items()
        if index < len(pieces) and pieces[index] != piece and pieces[index].replace("▁", " ") != piece.replace("▁", " ")
    ]
    if not wrong:
        return []
    first = min(wrong)
    stated = vocabulary.tokenizer.id_to_token(first)
    return [f"{len(wrong)} tokens differ, such as {first}: {pieces[first]!r}, not {stated!r}"]


def _kind_problems(metadata: Mapping[str, Any], trained: Path, vocabulary: Vocabulary, tokens: int) -> list[str]:
    """Return which types and scores of tokens are wrong.

    A score says which pieces are merged first, a type whether a text becomes the token, and whether it is shown.
    """
    types, scores = metadata.get(TYPES) or [], metadata.get(SCORES) or []
    added = _flags_of_added(trained, vocabulary.tokenizer)
    pieces = _sentence_pieces(trained) if metadata.get("tokenizer.ggml.model") == "llama" else None
    if min(len(types), len(scores)) < tokens:
        return [f"it has types or scores of {min(len(types), len(scores))} tokens, not of {tokens}"]
    wrong_types, wrong_scores = [], []
    for piece, index in vocabulary.numbers.items():
        if index >= tokens:
            continue
        if index in added:
            expected, score = _types_of_added(piece, added[index], of_pieces=pieces is not None), ADDED_SCORE
        elif pieces is not None and index < len(pieces):
            kind, score = pieces[index]
            expected = {NORMAL if kind == USER_DEFINED else kind}
        else:
            expected, score = {BYTE if _BYTE.fullmatch(piece) else NORMAL}, ADDED_SCORE
        if types[index] not in expected:
            wrong_types.append(index)
        if scores[index] != score:
            wrong_scores.append(index)
    listed = (("type", wrong_types, types), ("score", wrong_scores, scores))
    return [
        f"{len(wrong)} tokens have another {what}, such as {min(wrong)} "
        f"({vocabulary.tokenizer.id_to_token(min(wrong))!r}): {values[min(wrong)]}"
        for what, wrong, values in listed
        if wrong
    ]


def _types_of_added(piece: str, is_special: set[bool], *, of_pieces: bool) -> set[int]:
    """Return the types that an added token may have.

    llama.cpp leaves control tokens out of answers, as decoding leaves out special tokens: of others, such as line
    breaks, nothing would remain. is_special: see `_flags_of_added`. of_pieces: whether the vocabulary is
    SentencePiece's. For others the converter calls some special tokens visible.
    """
    types = {CONTROL} if True in is_special or _LOOKS_SPECIAL.fullmatch(piece) else {USER_DEFINED}
    if not of_pieces:
        return types | {USER_DEFINED, NORMAL}
    return types if is_special == {True} else types | {USER_DEFINED}


def _flags_of_added(trained: Path, tokenizer: Tokenizer) -> dict[int, set[bool]]:
    """Return whether each added token is special, by its number.

    The files may disagree: tokenizer.json, and tokenizer_config.json with a list of tokens and with names for some,
    which make them special. llama.cpp's converter reads the list.
    """
    config = json_object(trained / "tokenizer_config.json")
    listed = config.get("added_tokens_decoder") or {}
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
    named = {token_text(token) for token in (*config.values(), *(extra.values() if isinstance(extra, dict) else extra))}
    flags = {}
    for number, token in tokenizer.get_added_tokens_decoder().items():
        in_list = listed.get(str(number), {}).get("special", token.special)
        flags[number] = {token.special, bool(in_list), token.special or token.content in named}
    return flags


def _sentence_pieces(trained: Path) -> list[tuple[int, float]] | None:
    """Return type and score of each piece of tokenizer.model, if there is one."""
    from sentencepiece import sentencepiece_model_pb2

    path = trained / "tokenizer.model"
    if not path.is_file():
        return None
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(path.read_bytes())
    return [(piece.type, piece.score) for piece in proto.pieces]


def _merge_problems(metadata: Mapping[str, Any], trained: Path) -> list[str]:
    """Return whether the merges differ; their order is their rank."""
    merges = metadata.get(MERGES)
    if merges is None:
        return []
    stated = json_object(trained / "tokenizer.json")["model"].get("merges") or []
    expected = [" ".join(_without_blanks(merge)) if isinstance(merge, list) else merge for merge in stated]
    if merges == expected:
        return []
    count = sum(ours != theirs for ours, theirs in zip(expected, merges, strict=False))
    return [f"{count} of its {len(merges)} merges differ from the tokenizer's {len(expected)}"]


def _without_blanks(parts: Iterable[str]) -> list[str]:
    """Return parts of a merge as the converter writes them.

    A blank separates the parts, so within them it is another letter.
    """
    return [part.replace(" ", chr(ord(" ") + 256)) for part in parts]


def _special_problems(model: LlamaModel, metadata: Mapping[str, Any], trained: Path, tokenizer: Tokenizer) -> list[str]:
    differing = []
    config = json_object(trained / "tokenizer_config.json")
    bos = token_text(config.get("bos_token"))
    if bos and model.bos_token != tokenizer.token_to_id(bos):
        differing.append(f"its first token is {model.bos_token}, not {bos!r}")
    for key, name in SPECIAL:
        token, text = metadata.get(f"tokenizer.ggml.{key}"), token_text(config.get(name))
        if token is not None and text and token != tokenizer.token_to_id(text):
            differing.append(f"its {name} is {token} ({tokenizer.id_to_token(token)!r}), not {text!r}")
    for key, expected, default in FLAGS:
        if bool(metadata.get(f"tokenizer.ggml.{key}", default)) is not expected:
            differing.append(f"{key} is {not expected}")
    return differing


def _end_problems(metadata: Mapping[str, Any], trained: Path) -> list[str]:
    """Return which further tokens end answers that do not in training."""
    ends = set(end_tokens(json_object(trained / "generation_config.json")))
    if metadata.get("general.architecture") == "gemma":
        ends.add(END_OF_TURN_OF_GEMMA_1)
    tokens = {key: metadata.get(f"tokenizer.ggml.{key}") for key in ENDS}
    return [f"{key} is {token}, which ends no answer" for key, token in tokens.items() if token not in {None, *ends}]
