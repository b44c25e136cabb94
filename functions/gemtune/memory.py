"""What a training needs of memory, by what this trainer keeps there. Pure.

What is exact: weights, adapter, gradients and optimizer states are counted. What is estimated: the work memory of a
token, from figures in `bench/RESULTS.md`, and the fixed parts, which leave room for what nobody counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemtune.model_size import ModelSize
from gemtune.spec import DEFAULT_SEQ_LENGTH, Method, Modality, TrainingConfig

GIB = 1024**3

# NF4: four bits, and an 8-bit scale a block of 64, which has a 32-bit scale a block of 256 (double quantization).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# A trained parameter: float32 value, gradient, and the two moments of AdamW.
TRAINED_BYTES = 16
# A parameter in a checkpoint: float32 value and the two moments.
CHECKPOINT_BYTES = 12
# A checkpoint that is written, and when training resumes the one it came from, fetched and laid out.
LOCAL_CHECKPOINTS = 3
# CUDA's context, its libraries' workspaces, and what the allocator cannot give back.
GPU_FIXED_GIB = 1.5
# Python with torch, transformers and Google's clients; with CUDA its libraries too.
PROCESS_GIB, CUDA_PROCESS_GIB = 2.0, 4.0
# The vision tower works without gradients, one picture after the other's patches are there.
VISION_GIB = 2.0
# Sequences that a row becomes: chosen and rejected, or the answers GRPO samples and scores.
SEQUENCES = {"RL": 8}


@dataclass(frozen=True, slots=True)
class Load:
    """What of a request decides about memory. length: tokens of the longest row."""

    method: Method
    batch_size: int
    length: int
    lora_rank: int
    modality: Modality

    @classmethod
    def of(cls, config: TrainingConfig, modality: Modality) -> Load:
        length = config.max_seq_length or DEFAULT_SEQ_LENGTH
        return cls(config.method, config.batch_size, length, config.lora_rank, modality)

    @property
    def tokens(self) -> int:
        """Of one forward pass."""
        return self.batch_size * self.length * SEQUENCES.get(self.method, 1)


@dataclass(frozen=True, slots=True)
class Need:
    """GiB: on a GPU, in the main memory beside it, and in the main memory of a machine without one."""

    gpu: float
    beside_gpu: float
    without_gpu: float


def needed(size: ModelSize, load: Load) -> Need:
    """What training this model needs. Local files count: on Cloud Run they lie in memory."""
    trained = size.parameters if load.method == "Full" else size.lora_parameters(load.lora_rank)
    states = _weights_bytes(size, load.method) + trained * TRAINED_BYTES
    work = load.tokens * _token_bytes(size) + (VISION_GIB * GIB if load.modality == "vision" else 0)
    files = size.file_bytes + trained * CHECKPOINT_BYTES * LOCAL_CHECKPOINTS
    return Need(
        gpu=(states + work) / GIB + GPU_FIXED_GIB,
        beside_gpu=files / GIB + CUDA_PROCESS_GIB,
        without_gpu=(files + states + work) / GIB + PROCESS_GIB,
    )


def _weights_bytes(size: ModelSize, method: Method) -> float:
    """The base model as it is computed with. Full training has the trained copy instead, and a bf16 one to compute."""
    if method == "QLoRA":
        embeddings = size.vocabulary * size.hidden
        return 2 * embeddings + NF4_BYTES * max(0, size.parameters - embeddings)
    return 2 * size.parameters if method == "Full" else size.parameters * max(2, size.bytes_a_parameter)


def _token_bytes(size: ModelSize) -> float:
    """Work memory of a token in a forward and backward pass with gradient checkpointing: each layer's input, all that
    one layer keeps while it is computed again, and a block of the loss head."""
    inputs = 2 * size.layers * size.hidden
    layer = 2 * (24 * size.hidden + 12 * size.intermediate + 8 * size.attention + 4 * size.key_value)
    head = 8 * 8192
    return inputs + layer + head
