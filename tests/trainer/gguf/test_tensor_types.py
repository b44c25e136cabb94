"""Types that llama.cpp gives tensors, and the tables of what is known of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from gemtune.request.exports import GGUF
from trainer.certificate.files import gguf_tensor
from trainer.gguf.dither import LOW_BITS
from trainer.gguf.quantizer import quantized_types

QUANTIZED = [export.llama_type for export in GGUF if not export.converted]
# Layers of which llama.cpp gives the first and the last ones other types than those in between.
LAYERS = 8
TENSORS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def write(path: Path, width: int) -> Path:
    """Write a model of zeros, whose rows have this many values."""
    writer = GGUFWriter(path, "gemma3")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(width)
    writer.add_head_count(4)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_key_length(width // 4)
    writer.add_value_length(width // 4)
    writer.add_tensor("token_embd.weight", np.zeros((64, width), np.float16))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(LAYERS):
        for name in TENSORS:
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.zeros((width, width), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_every_type_that_an_export_gives_a_tensor_is_known(tmp_path: Path, tools: Path) -> None:
    # Rows that are no multiple of 256 get types with smaller blocks.
    models = [write(tmp_path / f"{width}.gguf", width) for width in (32, 256)]
    types = {kind for model in models for name in QUANTIZED for kind in quantized_types(tools, model, name).values()}
    assert types - {None} == set(LOW_BITS)


@pytest.mark.parametrize("llama_type", QUANTIZED)
def test_the_type_of_most_weights_is_known(llama_type: str) -> None:
    """Notice a new export on machines without llama.cpp, too."""
    assert llama_type.removesuffix("_S").removesuffix("_M").removesuffix("_L") in LOW_BITS


def test_each_table_knows_the_same_types() -> None:
    assert set(gguf_tensor.MULTIPLES) == set(LOW_BITS)
    assert {kind for kind in LOW_BITS if int(kind[1]) <= 4} == gguf_tensor.FEW_LEVELS  # 4 bits: 16 levels
