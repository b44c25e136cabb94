"""Gradient checkpointing: when backward recomputes activations to save memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from trainer.base_model import vision_parts

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from peft import LoraConfig
    from torch.utils.checkpoint import CheckpointPolicy, SelectiveCheckpointContext
    from transformers import PreTrainedConfig

    from trainer.base_model.language_model import LanguageModel

# Activations may take this fraction of the free memory. Training is the only user of a GPU; a workstation needs its
# main memory for other things too.
GPU_FRACTION = 0.6
MAIN_MEMORY_FRACTION = 0.25
# Activations up to this size are always saved.
SMALL_BYTES = 512 * 2**20
# Recomputing a product with a side shorter than this, like those of adapters, is cheaper than saving it.
MIN_SAVED_SIDE = 256
# The operation of `attention.flash_rows`, which torch knows once that has been used.
FLASH_ROWS = "torch_attn._varlen_attn.default"


def checkpointing_kwargs(
    model: LanguageModel, tokens: int, *, always: bool = False, compute_dtype: torch.dtype | None = None
) -> dict[str, Any] | None:
    """Return transformers' `gradient_checkpointing_kwargs`; None to save all.

    tokens: of the largest forward pass. always: checkpoint even if all activations would fit into memory.
    compute_dtype: the type of matrix products; None for that of the weights.
    """
    if not always and activation_bytes(model, tokens, compute_dtype) <= max(SMALL_BYTES, _memory_limit(model)):
        return None
    kwargs: dict[str, Any] = {"use_reentrant": False}
    if model.device.type == "cuda" and _product_bytes(model, tokens, compute_dtype) <= _memory_limit(model):
        kwargs["context_fn"] = keep_products
    return kwargs


def trainer_arguments(kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """Return the Trainer's arguments for `checkpointing_kwargs`.

    transformers 5.24 renamed them to activation checkpointing; the installed version decides.
    """
    from transformers import TrainingArguments

    name = "activation" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient"
    return {f"{name}_checkpointing": kwargs is not None, f"{name}_checkpointing_kwargs": kwargs}


def activation_bytes(model: LanguageModel, tokens: int, compute_dtype: torch.dtype | None = None) -> int:
    """Estimate the bytes that the decoder layers save for backward.

    tokens: of one forward pass. compute_dtype: None for the type of the weights. The formulas count the tensors of a
    forward pass by the layers' widths, and leave out casts of weights and the scores of capped attention.

    For Gemma 3 270M in bfloat16 they give, in KB per token and layer, 42 with PEFT's adapters, 58 with their dropout
    and 63 with all weights trained; with `trainer.model.on_cpu` 23 and 27, where rows of 512 tokens measured 21 and 25;
    27 and 43 in 4 bits.
    """
    from trainer.model.on_cpu.install import is_installed, is_partly_installed

    itemsize = (compute_dtype or model.dtype).itemsize
    installed, partly_installed, lora = is_installed(model), is_partly_installed(model), _lora_config(model)
    per_token = 0.0
    for widths in layer_widths(model):
        if installed:
            numbers = 3 * widths.hidden + 2 * widths.intermediate + 3 * (widths.queries + widths.keys)
            dropped = 2 * widths.hidden + widths.intermediate + widths.queries  # masks of one byte per value
            per_token += (numbers + _attention_weights(widths)) * itemsize + (dropped if _dropout(model) else 0)
        else:
            per_token += (
                _partly_installed_bytes(widths, itemsize)
                if partly_installed
                else _transformers_bytes(model, widths, itemsize)
            )
            per_token += 0 if lora is None else _peft_bytes(model, lora, widths, itemsize)
    return int(tokens * per_token)


@dataclass(frozen=True, slots=True)
class LayerWidths:
    """The widths of a decoder layer, in values per token.

    queries, keys: heads times head width; keys is 0 if the layer reads another layer's keys. norms: how many norms it
    has. normed_heads: whether queries and keys have norms. experts: the summed widths of the experts' MLPs that read
    one token.
    """

    hidden: int
    intermediate: int
    queries: int
    keys: int
    heads: int
    norms: int
    normed_heads: bool
    experts: int = 0


def layer_widths(model: LanguageModel) -> list[LayerWidths]:
    """Return the widths of each decoder layer, read from its modules.

    In Gemma 3n and 4 they differ between layers.
    """
    config = model.config.get_text_config()
    return [_widths_of(layer, config) for layer in decoder_layers(model)]


def _widths_of(layer: Any, config: PreTrainedConfig) -> LayerWidths:
    """Return the widths of one decoder layer."""
    attention, mlp = layer.self_attn, layer.mlp
    keys = getattr(attention, "k_proj", None)
    queries = attention.q_proj.out_features
    return LayerWidths(
        hidden=mlp.gate_proj.in_features,
        intermediate=mlp.gate_proj.out_features,
        queries=queries,
        keys=0 if keys is None else keys.out_features,
        heads=queries // attention.head_dim,
        norms=sum(type(part).__name__.endswith("RMSNorm") for part in layer.children()),
        normed_heads=hasattr(attention, "q_norm"),
        experts=config.top_k_experts * config.moe_intermediate_size if hasattr(layer, "experts") else 0,
    )


def _transformers_bytes(model: LanguageModel, widths: LayerWidths, itemsize: int) -> float:
    """Return what one of transformers' layers saves per token.

    These are the inputs of products, the factors of attention and gated unit, and each norm's input in float32, twice
    if its weight is trained.
    """
    trained = _lora_config(model) is None
    norm_bytes = 8 if trained else 4
    # If products are computed in fewer bits than the weights have, each layer casts its own copy of the input.
    input_copies = 5 if trained and model.dtype.itemsize > itemsize else 2
    one_key_head = widths.keys * widths.heads == widths.queries  # several key heads are repeated for their queries
    head_bytes = widths.queries * itemsize * (3.5 if one_key_head else 5)
    if widths.normed_heads:
        head_bytes += norm_bytes * (widths.queries + widths.keys)
    hidden_bytes = widths.hidden * (input_copies * itemsize + norm_bytes * widths.norms)
    return float(hidden_bytes + 4 * (widths.intermediate + widths.experts) * itemsize + head_bytes)


def _partly_installed_bytes(widths: LayerWidths, itemsize: int) -> int:
    """Return what a layer saves per token if only its linears are not ours.

    That is the case with 4-bit weights, see `trainer.model.on_cpu.install`.
    """
    head_values = 2 * (widths.queries + widths.keys)
    return itemsize * (6 * widths.hidden + 3 * widths.intermediate + head_values + _attention_weights(widths))


def _attention_weights(widths: LayerWidths) -> int:
    """Return how many weights our attention saves per token, at most.

    320 per head: blocks of 128 queries save theirs if they see at most 512 keys (`on_cpu.attention`).
    """
    return 320 * widths.heads


def _peft_bytes(model: LanguageModel, lora: LoraConfig, widths: LayerWidths, itemsize: int) -> int:
    """Return what PEFT's adapters add per token.

    Seven low-rank products; with dropout also a dropped input and a mask for each, in place of the inputs that the
    layers share otherwise.
    """
    narrow = 7 * lora.r * itemsize
    if not lora.lora_dropout:
        return narrow
    other_inputs = widths.intermediate + widths.queries
    mask_bytes = 1 if model.device.type == "cuda" else itemsize
    inputs, shared = 5 * widths.hidden + other_inputs, 2 * widths.hidden + other_inputs
    return int(narrow + inputs * (itemsize + mask_bytes) - shared * itemsize)


def _lora_config(model: LanguageModel) -> LoraConfig | None:
    """Return the adapter's configuration; None if all weights are trained."""
    return cast("LoraConfig", model.peft_config["default"]) if hasattr(model, "peft_config") else None


def _dropout(model: LanguageModel) -> float:
    """Return the adapter's dropout; 0 without an adapter."""
    lora = _lora_config(model)
    return 0.0 if lora is None else lora.lora_dropout


def decoder_layers(model: LanguageModel) -> list[torch.nn.Module]:
    """Return the decoder layers of the language model, not of vision towers."""
    towers = [module for name, module in model.named_modules() if name.rpartition(".")[2] in vision_parts.NAMES]
    tower_parts = {id(part) for tower in towers for part in tower.modules()}
    return [
        module
        for module in model.modules()
        if id(module) not in tower_parts and hasattr(module, "self_attn") and hasattr(module, "mlp")
    ]


def _product_bytes(model: LanguageModel, tokens: int, compute_dtype: torch.dtype | None) -> int:
    """Estimate the bytes that are saved with `keep_products`.

    For Gemma 3 4B two megabytes per token, ten times what the inputs of its layers take.
    """
    numbers = sum(
        3 * widths.hidden + 2 * (widths.intermediate + widths.experts) + 2 * (widths.queries + widths.keys)
        for widths in layer_widths(model)
    )
    return int(tokens * numbers * (compute_dtype or model.dtype).itemsize)


def _memory_limit(model: LanguageModel) -> float:
    """Return how many bytes activations may take on the model's device."""
    if model.device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(model.device)
        return GPU_FRACTION * free
    import psutil

    return MAIN_MEMORY_FRACTION * psutil.virtual_memory().available


def keep_products() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return contexts for `torch.utils.checkpoint` that save large products.

    Products of large matrices and attention are saved: they take most of the time, and little memory compared with the
    element-wise results that follow them. Everything else is recomputed.
    """
    from torch.utils.checkpoint import create_selective_checkpoint_contexts

    forward, recomputed = create_selective_checkpoint_contexts(_checkpoint_policy)
    return forward, recomputed


def _checkpoint_policy(
    context: SelectiveCheckpointContext, operation: torch._ops.OpOverload, *operands: Any, **_: Any
) -> CheckpointPolicy:
    """Return whether to save the result of an operation or to recompute it."""
    import torch
    from torch.utils.checkpoint import CheckpointPolicy

    if operation is torch.ops.aten.mm.default and min(*operands[0].shape[1:], *operands[1].shape) >= MIN_SAVED_SIDE:
        return CheckpointPolicy.MUST_SAVE
    if (
        operation
        in (
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
            torch.ops.aten._scaled_dot_product_flash_attention.default,
            torch.ops.aten._scaled_dot_product_efficient_attention.default,
        )
        or str(operation) == FLASH_ROWS
    ):
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
