"""Tiny random Gemmas with a tokenizer and every part of the real models."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from gemtune.settings import cache_folder
from tests import rows, tiny_shapes
from tests.tiny_shapes import SHAPES, Shape

CACHE = cache_folder()
TEMPLATES = Path(__file__).parent.parent / "trainer" / "conversation"


def build(folder: Path, family: str = "gemma3", *, head_dim: int = 32) -> Path:
    """Copy the tiny model of a shape to `folder`.

    family: a key of `tiny_shapes.SHAPES`.
    head_dim: size of an attention head; real models have 256, which llama.cpp relies on.

    The model is built once per machine and kept in the cache folder.
    """
    sources = (Path(__file__), Path(rows.__file__), Path(tiny_shapes.__file__), *sorted(TEMPLATES.glob("*.jinja")))
    recipe = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    cached = CACHE / f"tiny-{family}-{head_dim}-{recipe.hexdigest()[:12]}"
    if not cached.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=CACHE))
        try:
            _make(unfinished, family, head_dim)
            unfinished.rename(cached)
        except OSError:
            if not cached.exists():  # another process may have been faster
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return Path(shutil.copytree(cached, folder))


def _make(folder: Path, family: str, head_dim: int) -> None:
    import torch
    from transformers import GenerationConfig

    shape = SHAPES[family]
    tokenizer = write_tokenizer(folder, shape)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = shape.build(tokenizer, head_dim)
    ends = [1, *(tokenizer.convert_tokens_to_ids(token) for token in shape.ends)]
    model.generation_config = GenerationConfig(bos_token_id=2, eos_token_id=ends, pad_token_id=0)
    model.save_pretrained(folder)
    if shape.add_processor is not None:
        shape.add_processor(tokenizer, folder)


def write_tokenizer(folder: Path, shape: Shape) -> Any:
    """Train a sentencepiece model and return the fast tokenizer of its merges.

    Writes tokenizer.model, as Gemma's repositories have it, to the folder.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken
    from transformers import GemmaTokenizer

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(rows.corpus()),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=512,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        control_symbols=list(shape.turn_tokens),
        user_defined_symbols=["\n"],
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
    )
    (folder / "tokenizer.vocab").unlink()
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "tokenizer.model").read_bytes())
    pieces = [(piece.piece, piece.score, piece.type) for piece in proto.pieces]
    vocabulary = {piece: index for index, (piece, _, _) in enumerate(pieces)}
    merges: list[tuple[float, int, int, str, str]] = []
    for piece, score, kind in pieces:
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))] if kind == 1 else []
        merges += [
            (-score, vocabulary[a], vocabulary[b], a, b) for a, b in halves if a in vocabulary and b in vocabulary
        ]
    pairs: Any = [merge[3:] for merge in sorted(merges)]  # the tokenizer takes tuples, contrary to its annotation
    tokenizer = GemmaTokenizer(
        vocab=vocabulary,
        merges=pairs,
        add_bos_token=True,
        extra_special_tokens=dict(shape.media_tokens),
    )
    tokenizer.add_special_tokens({"extra_special_tokens": list(shape.turn_tokens)})
    tokenizer.add_tokens([AddedToken("\n", normalized=False, special=False)])
    tokenizer.chat_template = (TEMPLATES / shape.template).read_text()
    return tokenizer
