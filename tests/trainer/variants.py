"""Variants of Gemma 3 with a chat template of their own.

These are FunctionGemma, which has tokens of its own too, and TranslateGemma.
Their templates are gemtune's own, and write what the published ones write.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"
# The tokens of calls, in the order of their ids in FunctionGemma's vocabulary.
FUNCTION_TOKENS = (
    "<start_function_declaration>",
    "<end_function_declaration>",
    "<start_function_call>",
    "<end_function_call>",
    "<start_function_response>",
    "<end_function_response>",
    "<escape>",
)
_USER_DEFINED = 4  # the type of a piece in SentencePiece


def functiongemma(tiny: Path, folder: Path) -> Path:
    """Copy a tiny Gemma 3 and make it a FunctionGemma.

    As in its tokenizer, the tokens of calls are not special: they stay when an answer is decoded. They replace the
    results of the last merges of the tiny vocabulary.
    """
    from sentencepiece import sentencepiece_model_pb2

    shutil.copytree(tiny, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    results = list(dict.fromkeys("".join(pair) for pair in merges))
    renamed = dict(zip(results[-len(FUNCTION_TOKENS) :], FUNCTION_TOKENS, strict=True))
    tokenizer["model"]["merges"] = [pair for pair in merges if not renamed.keys() & {"".join(pair), *pair}]
    tokenizer["model"]["vocab"] = {renamed.get(piece, piece): number for piece, number in vocabulary.items()}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    added = [{"id": vocabulary[piece], "content": token, **flags} for piece, token in renamed.items()]
    tokenizer["added_tokens"] = sorted([*tokenizer["added_tokens"], *added], key=lambda each: each["id"])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    pieces = sentencepiece_model_pb2.ModelProto()
    pieces.ParseFromString((folder / "tokenizer.model").read_bytes())
    for piece in pieces.pieces:
        if piece.piece in renamed:
            piece.piece, piece.type = renamed[piece.piece], _USER_DEFINED
    (folder / "tokenizer.model").write_bytes(pieces.SerializeToString())
    shutil.copyfile(TEMPLATES / "functiongemma.jinja", folder / "chat_template.jinja")
    return folder


def translategemma(tiny: Path, folder: Path) -> Path:
    """Copy a tiny Gemma 3 and make it a TranslateGemma."""
    shutil.copytree(tiny, folder)
    shutil.copyfile(TEMPLATES / "translategemma.jinja", folder / "chat_template.jinja")
    return folder
