"""Whether backward keeps what forward computed, or computes it again (gradient checkpointing) and needs less memory."""

from __future__ import annotations

from typing import Any

# On a CPU, activations up to this size, or to that of the weights, are kept: a workstation has other things to do with
# its memory. On a GPU, whose memory nobody else uses, up to this share of what is free.
SMALL = 512 * 2**20
SHARE_OF_GPU = 0.6
# A product with a side shorter than this, as those of an adapter are, costs less than the memory to keep it.
LARGE = 256


def must_be_computed_again(model: Any, tokens: int) -> bool:
    """tokens: those of the largest forward pass."""
    import torch

    needed = activation_bytes(model.config.get_text_config(), tokens, itemsize=model.dtype.itemsize)
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        return needed > SHARE_OF_GPU * free
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return needed > max(weights, SMALL)


def activation_bytes(config: Any, tokens: int, *, itemsize: int) -> int:
    """About what transformers' Gemma layers with LoRA keep for backward, by config and tokens: counted from the code as
    14 vectors of the hidden size, 6 of the MLP's and 6 of queries, keys and values. On Gemma 3 270M it says 1.1 GB of
    1,024 tokens, for which 0.9 GB were seen."""
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    a_token = 14 * config.hidden_size + 6 * config.intermediate_size + 6 * heads * config.head_dim
    return int(tokens * config.num_hidden_layers * a_token * itemsize)


def products_fit(model: Any, tokens: int) -> bool:
    """Whether what `keep_products` keeps has room: of 4B two megabytes a token, ten times what the inputs of its layers
    take. tokens: those of the largest forward pass."""
    if model.device.type != "cuda":
        return True
    import torch

    config = model.config.get_text_config()
    heads = 2 * (config.num_attention_heads + config.num_key_value_heads)
    a_token = 3 * config.hidden_size + 2 * config.intermediate_size + heads * config.head_dim
    free, _ = torch.cuda.mem_get_info(model.device)
    return bool(tokens * config.num_hidden_layers * a_token * model.dtype.itemsize <= SHARE_OF_GPU * free)


def keep_products() -> Any:
    """For `torch.utils.checkpoint`: of what is computed again, all but the products of large matrices and attention,
    which take most of the time and, beside what is made of them element by element, little of the memory."""
    from torch.utils.checkpoint import create_selective_checkpoint_contexts

    return create_selective_checkpoint_contexts(_policy)


def _policy(context: Any, operation: Any, *operands: Any, **_: Any) -> Any:
    import torch
    from torch.utils.checkpoint import CheckpointPolicy

    if operation is torch.ops.aten.mm.default and min(*operands[0].shape[1:], *operands[1].shape) >= LARGE:
        return CheckpointPolicy.MUST_SAVE
    if operation in (
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
    ):
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
