"""Tiny random Gemmas with a tokenizer of their own: everything a real one has, at a millionth of the size."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests import rows

SPECIAL = ("<start_of_turn>", "<end_of_turn>")
# What a picture is written with, by the names that transformers' processor asks its tokenizer for.
OF_PICTURES = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
TOKENS_A_PICTURE, PICTURE_SIZE = 4, 56
CACHE = Path(os.environ.get("GEMTUNE_CACHE") or Path.home() / ".cache" / "gemtune")
TEMPLATE = Path(__file__).parent.parent / "trainer" / "conversation" / "gemma_chat_template.jinja"


def build(folder: Path, family: str = "gemma3", *, head_dim: int = 32) -> Path:
    """A copy of the tiny model of a family ("gemma", "gemma2", "gemma3", "gemma3-vision") at `folder`, made once a
    machine.

    head_dim: of the real ones it is 256, which llama.cpp counts on.
    """
    recipe = hashlib.sha256(b"".join(p.read_bytes() for p in (Path(__file__), Path(rows.__file__), TEMPLATE)))
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
    import transformers

    tokenizer = _tokenizer(folder, OF_PICTURES if family == "gemma3-vision" else {})
    tokenizer.save_pretrained(folder)
    common = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128,
        "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": head_dim, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1,
    }  # fmt: skip
    attention = {"query_pre_attn_scalar": head_dim, "sliding_window": 64}
    torch.manual_seed(0)
    model: Any
    if family == "gemma":
        model = transformers.GemmaForCausalLM(transformers.GemmaConfig(**common, num_hidden_layers=2))
    elif family == "gemma2":
        model = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**common, **attention, num_hidden_layers=2))
    elif family == "gemma3":
        model = transformers.Gemma3ForCausalLM(
            transformers.Gemma3TextConfig(**common, **attention, num_hidden_layers=6)
        )
    elif family == "gemma3-vision":
        model = _seeing(transformers.Gemma3TextConfig(**common, **attention, num_hidden_layers=6), tokenizer)
        _processor(tokenizer).save_pretrained(folder)
    else:
        raise ValueError(f"no recipe for a tiny {family}")
    end_of_turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=2, eos_token_id=[1, end_of_turn], pad_token_id=0
    )
    model.save_pretrained(folder)
    if family == "gemma3-vision":
        _name_as_on_the_hub(folder / "model.safetensors")


def _name_as_on_the_hub(weights: Path) -> None:
    """Checkpoints of Gemma 3 have a name more in their vision tower's paths than the modules that they become."""
    from safetensors.torch import load_file, save_file

    named = {n.replace("vision_tower.", "vision_tower.vision_model."): w for n, w in load_file(weights).items()}
    save_file(named, weights, metadata={"format": "pt"})


def _seeing(text: Any, tokenizer: Any) -> Any:
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in OF_PICTURES.items()}
    tower = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": PICTURE_SIZE, "patch_size": 14, "vision_use_head": False,
    }  # fmt: skip
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text, vision_config=tower, mm_tokens_per_image=TOKENS_A_PICTURE,
            boi_token_index=ids["boi_token"], eoi_token_index=ids["eoi_token"], image_token_index=ids["image_token"],
        )
    )  # fmt: skip
    # transformers begins with a projector of zeros, through which nothing is seen until it is trained.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
    return model


def _processor(tokenizer: Any) -> Any:
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    # Mean, deviation and resampling as google/gemma-3-4b-it has them.
    pictures = Gemma3ImageProcessorPil(
        size={"height": PICTURE_SIZE, "width": PICTURE_SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return Gemma3Processor(
        image_processor=pictures, tokenizer=tokenizer, image_seq_length=TOKENS_A_PICTURE,
        chat_template=tokenizer.chat_template,
    )  # fmt: skip


def _tokenizer(folder: Path, of_pictures: dict[str, str]) -> Any:
    """A sentencepiece BPE vocabulary as Gemma has it, and the fast tokenizer with the same merges."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken
    from transformers import GemmaTokenizer

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(rows.corpus()), model_prefix=str(folder / "tokenizer"), vocab_size=512,
        model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
        unk_piece="<unk>", control_symbols=list(SPECIAL), user_defined_symbols=["\n"], add_dummy_prefix=False,
        remove_extra_whitespaces=False, normalization_rule_name="identity", split_digits=True,
    )  # fmt: skip
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
    tokenizer = GemmaTokenizer(
        vocab=vocabulary, merges=[merge[3:] for merge in sorted(merges)], add_bos_token=True,
        extra_special_tokens=of_pictures,
    )  # fmt: skip
    tokenizer.add_special_tokens({"extra_special_tokens": list(SPECIAL)})
    tokenizer.add_tokens([AddedToken("\n", normalized=False, special=False)])
    tokenizer.chat_template = TEMPLATE.read_text()
    return tokenizer
