"""Main memory that an export needs."""

from __future__ import annotations

from gemtune.families.size import ModelSize
from gemtune.machines.memory import GIB, MOUNTS_GIB, VALUE_BYTES
from gemtune.methods import Method

# Memory of the processes themselves.
EXPORT_PROCESS_GIB = 3.0
# Largest file of weights that a merge writes, and so what it has on the local disk at a time.
SHARD_BYTES = 4 * GIB
# Bytes per parameter of a weight that is merged: the weight, its change and their sum in float32, and random bits.
MERGING_BYTES = 16
# Bytes per parameter of a weight that is stored in 16 bits, and of the copy that is made of it first.
ROUNDED_BYTES = 2
# Bytes per parameter of a weight that llama.cpp converts or quantizes, which it does in float32.
CONVERTING_BYTES = 4
# The same of an embedding that replaces the base model's: in float32 and rounded to 16 bits.
REPLACING_BYTES = 4 + 2


def memory_for_export(
    size: ModelSize,
    method: Method,
    lora_rank: int,
    local_bytes: float,
    *,
    whole_embedding: bool = False,
    fp16: bool = False,
) -> float:
    """Return the GiB of main memory that an export needs.

    That is memory for an adapter; for merging, with one shard on the local disk, and afterwards for the files that are
    converted, with their largest table; and for the models that are compared at the end: models of more than 4 GiB are
    memory-mapped, smaller ones are loaded in float32. An export never uses a GPU.

    local_bytes: bytes per parameter of the base model that are on the local disk after merging.
    whole_embedding: whether the adapter holds the whole embedding, too. fp16: whether the weights are stored as fp16.
    """
    parameters = size.parameters
    embedding = size.vocabulary * size.hidden if whole_embedding else 0
    adapter = 0 if method == "Full" else (size.lora_parameters(lora_rank) + embedding) * VALUE_BYTES
    compared = 4 * parameters if size.file_bytes <= 4 * GIB else 0
    is_rounded = method == "Full" or fp16 or size.bytes_per_parameter > ROUNDED_BYTES
    rounding = ROUNDED_BYTES * size.largest_table if is_rounded else 0
    merging = max(MERGING_BYTES * _largest_weight(size), REPLACING_BYTES * embedding, rounding)
    converting = local_bytes * parameters + (CONVERTING_BYTES * size.largest_table if local_bytes else 0)
    total = adapter + max(largest_shard_bytes(size) + merging, converting) + compared
    return total / GIB + EXPORT_PROCESS_GIB + MOUNTS_GIB


def largest_shard_bytes(size: ModelSize) -> int:
    """Return the bytes of the largest file of weights that a merge writes.

    The table of Gemma 4 E2B and E4B with an embedding for each layer is larger than SHARD_BYTES, and is not divided.
    """
    return max(min(SHARD_BYTES, ROUNDED_BYTES * size.parameters), ROUNDED_BYTES * size.largest_table)


def _largest_weight(size: ModelSize) -> int:
    """Return the parameters of the largest weight that an adapter changes."""
    linear = max(size.hidden * max(shape.intermediate, shape.attention) for shape in size.shapes)
    experts = 0 if size.experts is None else size.experts.count * 2 * size.experts.intermediate * size.hidden
    return max(linear, experts)
