"""Memory needed for training. All functions are pure.

Weights, adapter, gradients, optimizer states and files are counted exactly. The activation memory of a forward and
backward pass is fitted to the measurements of `python -m bench.memory` (bench/RESULTS.md). The fixed parts, and
constants whose comment says so, are estimates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gemtune.families.size import Layers, ModelSize, Tower
from gemtune.methods import Method, Modality

GIB = 1024**3

# Bytes per NF4 weight: four bits, an 8-bit scale per block of 64 weights, and a 32-bit scale per 256 of these scales
# (double quantization).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# Bytes per trained parameter of a float32 value and of its gradient, and of the two moments of AdamW in float32.
VALUE_BYTES, GRADIENT_BYTES, MOMENT_BYTES = 4, 4, 8
# The two moments in 8 bits, with a float32 scale per block of 256: bitsandbytes' AdamW, which method Full has on a GPU.
# The moments of embeddings stay in 32 bits there.
MOMENT_BYTES_IN_8_BITS = 2 * (1 + 4 / 256)
# Bytes per number of the embedding, on a GPU and on a CPU, if it is trained beside an adapter. Rows: PEFT's copies with
# the trained rows, for the embedding and for the head, and the gradient of the first. Whole: as with method Full, a
# 16-bit copy and the head's gradient. Counted from the code. Measured on a CPU that computes in bf16, with 262,144 rows
# of 640 numbers, without AdamW's moments: 0.9 GiB more than frozen for rows, 1.8 GiB for the whole embedding.
EMBEDDING_BYTES = {"frozen": (0, 0), "rows": (3 * 2, 3 * 4), "whole": (2 + 4, 2 + 4)}
# CUDA's context, the workspaces of its libraries, and memory that the allocator cannot give back.
GPU_FIXED_GIB = 1.5
# Cloud Storage FUSE, which shows mounted buckets: its caches, and a buffer per file that is read. Estimated by Cloud
# Run's documentation. Pages of the files are dropped when their memory is needed, so they do not count.
MOUNTS_GIB = 0.5
# Python with torch, transformers and Google's clients; with CUDA also its libraries.
PROCESS_GIB, CUDA_PROCESS_GIB = 2.0, 4.0
# Activations of a frozen vision tower: the minimum, and the amount per picture in a forward pass. Estimated for one
# picture per row.
VISION_GIB, PICTURE_GIB = 2.0, 0.1
# The same for audio towers, for one clip of 30 seconds per row. Calculated: its first convolution writes 1,500 by 64
# positions with 128 channels, 0.05 GiB in float32, and its layers have 750 positions.
AUDIO_GIB, CLIP_GIB = 1.0, 0.1
# Bytes per number of an expert in one layer for the change that PEFT computes for all of them, and its gradient.
# Measured: 1.2 times that of the weights in 16 bits.
EXPERT_CHANGE_BYTES = 2.4
# Bytes per number of the inputs that each layer has for itself: those of all layers are computed and kept at once.
PER_LAYER_INPUT_BYTES = 7
# Columns of the output head whose logits exist at the same time, as in trainer/model/loss_head.py.
HEAD_BLOCK = 4096
# Safety factor for what was not measured: other widths, workspaces of kernels, and memory fragmentation.
WORK_MARGIN = 1.15
# Factor for TRL's trainers, which save the inputs of adapters in two dtypes. Measured.
RL_SHARE = 1.35
# On a CPU, activations of up to this size are kept for the backward pass instead of being recomputed.
SMALL_WORK = 512 * 2**20
# Bytes per number in the key-value cache that completions are sampled with. Estimated.
CACHE_BYTES = 4


@dataclass(frozen=True, slots=True)
class TrainingLoad:
    """Parameters of a request that determine the memory of its train step.

    batch_size: rows per forward pass.
    length: tokens of the longest row.
    sequences_per_row: sequences that a row becomes in a forward pass; 2 for DPO, which compares two answers.
    sampled_completions: completions that GRPO samples at once; 0 for other methods.
    group_size: completions of one prompt, which GRPO samples together.
    dora: whether the adapter is one of DoRA.
    embedding: whether the embedding is trained beside an adapter: some rows of it, or all.
    completion_length: tokens of a row that are kept free for a completion.
    least_batch: the smallest batch_size that the method allows.
    train_tower: whether the vision tower is trained.
    """

    method: Method
    batch_size: int
    length: int
    lora_rank: int
    modality: Modality
    sequences_per_row: int = 1
    sampled_completions: int = 0
    group_size: int = 1
    dora: bool = False
    embedding: Literal["frozen", "rows", "whole"] = "frozen"
    completion_length: int = 0
    least_batch: int = 1
    train_tower: bool = False

    @property
    def tokens(self) -> int:
        """Return the tokens of one forward pass."""
        return self.batch_size * self.length * self.sequences_per_row

    @property
    def prompts(self) -> int:
        """Return the number of prompts whose media are processed at once."""
        return max(self.batch_size * self.sequences_per_row, self.sampled_completions)


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """GiB that the train step needs.

    gpu: GPU memory. host_with_gpu: main memory on a machine with a GPU. host_without_gpu: main memory on one without.
    """

    gpu: float
    host_with_gpu: float
    host_without_gpu: float


def memory_for_training(size: ModelSize, load: TrainingLoad) -> MemoryNeed:
    """Return the memory that training a model of this size needs.

    Checkpoints count as main memory, because Cloud Run keeps local files there. Weights are read from mounts.
    """
    table = size.vocabulary * size.hidden
    tower = tower_bytes(size.tower, load)
    trained = _trained_parameters(size, load)
    of_table = [table * bytes_each for bytes_each in EMBEDDING_BYTES[load.embedding]]
    on_gpu, on_cpu = (
        _weights_bytes(size, load.method, on_gpu=gpu)
        + more
        + trained * (VALUE_BYTES + GRADIENT_BYTES)
        + moment_bytes(size, load, on_gpu=gpu)
        for gpu, more in zip((True, False), of_table, strict=True)
    )
    gpu = on_gpu + work_bytes(size, load, checkpointing=True)
    cpu = on_cpu + _work_without_gpu(size, load)
    return MemoryNeed(
        gpu=(gpu + tower) / GIB + GPU_FIXED_GIB,
        host_with_gpu=checkpoint_bytes(size, load, on_gpu=True) / GIB + CUDA_PROCESS_GIB + MOUNTS_GIB,
        # A tower that is trained computes in 32 bits there.
        host_without_gpu=(checkpoint_bytes(size, load, on_gpu=False) + cpu + tower * (2 if load.train_tower else 1))
        / GIB
        + PROCESS_GIB
        + MOUNTS_GIB,
    )


def tower_bytes(tower: Tower, load: TrainingLoad) -> float:
    """Return the bytes of the activations of a vision or audio tower.

    A tower that is trained is always recomputed layer by layer: each layer keeps its input, and one at a time all that
    its gradients need. The factors were measured on Gemma 3's tower with an adapter. One that is frozen keeps nothing.
    """
    if load.modality == "audio":
        return GIB * max(AUDIO_GIB, CLIP_GIB * load.prompts)
    if load.modality != "vision" or tower.layers == 0:
        return 0.0
    frozen = GIB * max(VISION_GIB, PICTURE_GIB * load.prompts)
    if not load.train_tower:
        return frozen
    per_patch = 2 * tower.hidden * tower.layers + 30 * tower.hidden + 12 * tower.intermediate
    return max(frozen, WORK_MARGIN * load.prompts * tower.patches * per_patch)


def _trained_parameters(size: ModelSize, load: TrainingLoad) -> int:
    """Return the number of trained parameters, apart from rows of new tokens."""
    if load.method == "Full":
        return size.parameters
    table = size.vocabulary * size.hidden
    return size.lora_parameters(load.lora_rank) + (table if load.embedding == "whole" else 0)


def moment_bytes(size: ModelSize, load: TrainingLoad, *, on_gpu: bool) -> float:
    """Return the bytes of AdamW's moments."""
    trained = _trained_parameters(size, load)
    if load.method != "Full" or not on_gpu:
        return trained * MOMENT_BYTES
    in_32_bits = min(size.embeddings, trained)
    return in_32_bits * MOMENT_BYTES + (trained - in_32_bits) * MOMENT_BYTES_IN_8_BITS


def checkpoint_bytes(size: ModelSize, load: TrainingLoad, *, on_gpu: bool) -> float:
    """Return the bytes of a checkpoint that are on the local disk at a time.

    With method Full the weights leave it before the optimizer's states are written; see trainer/store/checkpoints.py.
    """
    values = _trained_parameters(size, load) * VALUE_BYTES
    moments = moment_bytes(size, load, on_gpu=on_gpu)
    return max(values, moments) if load.method == "Full" else values + moments


def _weights_bytes(size: ModelSize, method: Method, *, on_gpu: bool) -> float:
    """Return the bytes of the weights, apart from those in float32 that train.

    On a CPU they count in float32: where the processor is slow at bfloat16,
    products are computed in float32, and that is not known in advance.
    """
    if method == "QLoRA":
        in_16_bits = size.embeddings + size.expert_parameters
        return 2 * in_16_bits + NF4_BYTES * max(0, size.parameters - in_16_bits)
    if method == "Full":
        # 16-bit copies for computing, and the output head's gradient, which is then added to that of the embedding,
        # because both are the same weights.
        return 2 * size.parameters + 4 * size.vocabulary * size.hidden
    return size.parameters * max(2 if on_gpu else 4, size.bytes_per_parameter)


def work_bytes(size: ModelSize, load: TrainingLoad, *, checkpointing: bool) -> float:
    """Return the bytes of the activations of a pass in bfloat16.

    The factors come from `python -m bench.memory`: each layer keeps some bytes for each of its widths until its
    gradients are computed, and the temporary values of the backward pass have the width of the widest part, the MLP.
    With gradient checkpointing each layer keeps only its input, and one layer at a time is recomputed.
    """
    layers = [_layer_bytes(size, shape, load) for shape in size.shapes]
    columns = min(HEAD_BLOCK, size.vocabulary)
    head, backward = columns * 12 + 8 * size.hidden, 4 * size.intermediate + _gathered_bytes(size)
    changes = 0.0 if load.method == "Full" or size.experts is None else EXPERT_CHANGE_BYTES * size.expert_parameters
    if checkpointing:
        per_token = 2 * size.hidden * size.layers + max(head, max(layers) + backward)
        changes /= size.layers  # one layer at a time
    else:
        all_layers = sum(shape.count * layer for shape, layer in zip(size.shapes, layers, strict=True))
        per_token = all_layers + max(head, backward)
    per_token += PER_LAYER_INPUT_BYTES * size.layers * size.per_layer_input
    margin = WORK_MARGIN * (RL_SHARE if load.method == "RL" else 1)
    # PEFT's DoRA keeps three matrices of one layer at a time: the adapter's product (computed with an identity matrix),
    # the updated weight and a copy. Counted from its code, not measured.
    of_one_layer = 4 * size.intermediate * (size.intermediate + 3 * size.hidden) if load.dora else 0
    cached = sum(shape.count * shape.key_value for shape in size.shapes)
    return of_one_layer + max(
        margin * (load.tokens * per_token + changes), load.sampled_completions * load.length * 2 * cached * CACHE_BYTES
    )


def _layer_bytes(size: ModelSize, shape: Layers, load: TrainingLoad) -> int:
    """Return the bytes per token that a layer keeps for the backward pass.

    The further memory of an adapter on experts does not depend on the tokens, and is not counted here.
    """
    experts = 0 if size.experts is None else size.experts.per_token * size.experts.intermediate
    keys = shape.key_value  # a layer with the keys and values of an earlier one keeps none of its own
    widths = 30 * size.hidden + 10 * (shape.intermediate + experts) + 18 * (shape.attention + keys)
    if load.dora:  # the outputs of the frozen layer and of the adapter, for the gradient of the magnitudes
        widths += 4 * (2 * size.hidden + 2 * (shape.intermediate + experts) + shape.attention + 2 * keys)
    return widths + 20 * size.capped_heads * load.length


def _gathered_bytes(size: ModelSize) -> int:
    """Return the bytes per token of a layer's inputs for its experts.

    They are gathered once for each expert that processes a token. Measured.
    """
    return 0 if size.experts is None else 10 * size.experts.per_token * size.hidden


def _work_without_gpu(size: ModelSize, load: TrainingLoad) -> float:
    """Return the smallest activation memory of a pass on a CPU, in bytes.

    trainer/model/gradient_checkpointing.py keeps small activations and recomputes the rest; it keeps more where a
    quarter of the free memory suffices. Activations are in float32 there, which doubles `work_bytes`.
    """
    without_checkpointing = 2 * work_bytes(size, load, checkpointing=False)
    if without_checkpointing <= SMALL_WORK:
        return without_checkpointing
    return max(SMALL_WORK, 2 * work_bytes(size, load, checkpointing=True))
