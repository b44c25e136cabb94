"""What a training needs of memory, by what this trainer keeps there. Pure.

Weights, adapter, gradients, optimizer states and files are counted. The work memory of a pass is fitted to what
`python -m bench.memory` counts (bench/RESULTS.md). The fixed parts, and whatever says so, are estimates.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemtune.families.size import Layers, ModelSize
from gemtune.methods import Method, Modality

GIB = 1024**3

# NF4: four bits, and an 8-bit scale a block of 64, which has a 32-bit scale a block of 256 (double quantization).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# A trained parameter: float32 value, gradient, and the two moments of AdamW. Those of 8 bits, which method Full has on
# a GPU, are 6 bytes less: that is kept as a margin, since it was not measured, and embeddings have none of 8 bits.
TRAINED_BYTES = 16
# A parameter in a checkpoint: float32 value and the two moments.
CHECKPOINT_BYTES = 12
# A checkpoint that is written, and when training resumes the one it came from.
LOCAL_CHECKPOINTS = 2
# CUDA's context, its libraries' workspaces, and what the allocator cannot give back.
GPU_FIXED_GIB = 1.5
# Python with torch, transformers and Google's clients; with CUDA its libraries too.
PROCESS_GIB, CUDA_PROCESS_GIB, EXPORT_PROCESS_GIB = 2.0, 4.0, 3.0
# The vision tower's activations, as it is not trained: at least, and of each picture that it sees at once. Estimated,
# for one picture a row.
VISION_GIB, PICTURE_GIB = 2.0, 0.1
# Columns of the head that have logits at once, as trainer/model/loss_head.py has it.
HEAD_BLOCK = 4096
# For what was not measured: other widths, kernels' own workspaces, and memory in pieces too small to use.
WORK_MARGIN = 1.15
# TRL's trainers leave inputs of adapters in two kinds of numbers, as was counted before the other one did not.
RL_SHARE = 1.35
# On a CPU, what is kept for backward up to this size is not computed again.
SMALL_WORK = 512 * 2**20
# Bytes of a number of the cache that a completion is sampled with. Estimated.
CACHE_BYTES = 4


@dataclass(frozen=True, slots=True)
class TrainingLoad:
    """What of a request decides about memory. length: tokens of the longest row. sequences: what a row becomes in a
    forward pass; DPO compares two. sampled: completions that GRPO samples at once."""

    method: Method
    batch_size: int
    length: int
    lora_rank: int
    modality: Modality
    sequences_per_row: int = 1
    sampled_completions: int = 0

    @property
    def tokens(self) -> int:
        """Of one forward pass."""
        return self.batch_size * self.length * self.sequences_per_row

    @property
    def prompts(self) -> int:
        """Those whose pictures are seen at once."""
        return max(self.batch_size * self.sequences_per_row, self.sampled_completions)


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """GiB: on a GPU, in the main memory beside it, and in the main memory of a machine without one."""

    gpu: float
    host_with_gpu: float
    host_without_gpu: float


def memory_for_training(size: ModelSize, load: TrainingLoad) -> MemoryNeed:
    """What training this model needs. Local files count: on Cloud Run they lie in memory."""
    trained = size.parameters if load.method == "Full" else size.lora_parameters(load.lora_rank)
    files = size.file_bytes + trained * CHECKPOINT_BYTES * LOCAL_CHECKPOINTS
    fixed = max(VISION_GIB, PICTURE_GIB * load.prompts) if load.modality == "vision" else 0.0

    trained_bytes = trained * TRAINED_BYTES
    on_gpu, on_cpu = (_weights_bytes(size, load.method, on_gpu=gpu) for gpu in (True, False))
    gpu = on_gpu + trained_bytes + work_bytes(size, load, checkpointing=True)
    cpu = on_cpu + trained_bytes + _work_without_gpu(size, load)
    return MemoryNeed(
        gpu=gpu / GIB + GPU_FIXED_GIB + fixed,
        host_with_gpu=files / GIB + CUDA_PROCESS_GIB,
        host_without_gpu=(files + cpu) / GIB + PROCESS_GIB + fixed,
    )


def memory_for_export(size: ModelSize, method: Method, written_bytes: float) -> float:
    """GiB of main memory that an export needs, which never uses a GPU: the files it reads and writes, and the models
    that are compared afterwards. Those above 4 GiB lie where their files do; smaller ones are read into float32.

    written_bytes: per parameter of the base model.
    """
    parameters = size.parameters
    read = 4 * parameters if method == "Full" else size.file_bytes
    compared = 4 * parameters if size.file_bytes <= 4 * GIB else 0
    return (read + written_bytes * parameters + compared) / GIB + EXPORT_PROCESS_GIB


def _weights_bytes(size: ModelSize, method: Method, *, on_gpu: bool) -> float:
    """What is there of the weights beside the trained ones. Without a GPU, products are made in float32 wherever the
    processor is slow at bfloat16, and nobody knows before."""
    if method == "QLoRA":
        in_16_bits = size.embeddings + size.expert_parameters
        return 2 * in_16_bits + NF4_BYTES * max(0, size.parameters - in_16_bits)
    if method == "Full":  # copies in 16 bits to compute with, and the head's gradient before it is added to that of the
        return 2 * size.parameters + 4 * size.vocabulary * size.hidden  # embeddings, which are the same weights
    return size.parameters * max(2 if on_gpu else 4, size.bytes_per_parameter)


def work_bytes(size: ModelSize, load: TrainingLoad, *, checkpointing: bool) -> float:
    """What a forward and backward pass makes and drops again, in bfloat16. The factors are those of
    `python -m bench.memory`: a layer keeps some bytes for each of its widths until its gradients are there, and
    backward's own values are those of the widest, the MLP's. With gradient checkpointing each layer keeps its input,
    and one at a time is computed again."""
    layers = [_layer_bytes(size, shape, load) for shape in size.shapes]
    head, backward = HEAD_BLOCK * 12 + 8 * size.hidden, 7 * size.intermediate
    if checkpointing:
        a_token = 2 * size.hidden * size.layers + max(head, max(layers) + backward)
    else:
        kept = sum(shape.count * layer for shape, layer in zip(size.shapes, layers, strict=True))
        a_token = kept + max(head, backward)
    margin = WORK_MARGIN * (RL_SHARE if load.method == "RL" else 1)
    cached = sum(shape.count * shape.key_value for shape in size.shapes)
    return max(margin * load.tokens * a_token, load.sampled_completions * load.length * 2 * cached * CACHE_BYTES)


def _layer_bytes(size: ModelSize, shape: Layers, load: TrainingLoad) -> int:
    """Per token, what a layer of this shape keeps for backward. An adapter on experts adds each expert's change to its
    weights, which is not counted per token."""
    experts = 0 if size.experts is None else size.experts.per_token * size.experts.intermediate
    keys = shape.key_value or max(each.key_value for each in size.shapes)  # those of another layer are repeated, too
    widths = 30 * size.hidden + 10 * (shape.intermediate + experts) + 18 * (shape.attention + keys)
    return widths + 20 * size.capped_heads * load.length


def _work_without_gpu(size: ModelSize, load: TrainingLoad) -> float:
    """The least that trainer/model/gradient_checkpointing.py can do with: what is small is kept, and the rest
    computed again. Where a quarter of the free memory holds it, it keeps more. In float32, which is twice."""
    kept = 2 * work_bytes(size, load, checkpointing=False)
    return kept if kept <= SMALL_WORK else max(SMALL_WORK, 2 * work_bytes(size, load, checkpointing=True))
