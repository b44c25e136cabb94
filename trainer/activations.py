"""Whether backward keeps what forward computed, or computes it again (gradient checkpointing) and needs less memory."""

from __future__ import annotations

from typing import Any

# Activations are kept up to this share of the memory that is free: a GPU's nobody else uses, a workstation has other
# things to do with its own. And always up to this size.
SHARE_OF_GPU = 0.6
SHARE_OF_MAIN_MEMORY = 0.25
SMALL = 512 * 2**20
# A product with a side shorter than this, as those of an adapter are, costs less than the memory to keep it.
LARGE = 256


def checkpointing(model: Any, tokens: int, *, always: bool = False) -> dict[str, Any] | None:
    """None: everything is kept. Else what transformers' `gradient_checkpointing_kwargs` have to be.

    tokens: those of the largest forward pass. always: whatever the memory would allow.
    """
    if not always and activation_bytes(model, tokens) <= max(SMALL, _share_of_free(model)):
        return None
    how: dict[str, Any] = {"use_reentrant": False}
    if model.device.type == "cuda" and _product_bytes(model, tokens) <= _share_of_free(model):
        how["context_fn"] = keep_products
    return how


def activation_bytes(model: Any, tokens: int) -> int:
    """About what the layers keep for backward of so many tokens: vectors counted from the code, by their widths.

    On Gemma 3 270M it says 61 KB a token and layer, for which 49 were seen; with `trainer.on_cpu` and dropout 27, for
    25 seen, and 19 without. Turned queries and keys count, though models that normalize them make them again.
    """
    from trainer.on_cpu.install import is_installed

    config = model.config.get_text_config()
    queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    if is_installed(model):
        numbers = 4 * config.hidden_size + 2 * config.intermediate_size + 3 * (queries + keys)
        dropped = 5 * config.hidden_size + config.intermediate_size + queries  # a byte each
    else:
        numbers = 14 * config.hidden_size + 6 * config.intermediate_size + 6 * (queries + 2 * keys)
        dropped = 0
    return int(tokens * config.num_hidden_layers * (numbers * model.dtype.itemsize + dropped))


def _product_bytes(model: Any, tokens: int) -> int:
    """What `keep_products` keeps: of 4B two megabytes a token, ten times what the inputs of its layers take."""
    config = model.config.get_text_config()
    heads = 2 * (config.num_attention_heads + config.num_key_value_heads)
    a_token = 3 * config.hidden_size + 2 * config.intermediate_size + heads * config.head_dim
    return int(tokens * config.num_hidden_layers * a_token * model.dtype.itemsize)


def _share_of_free(model: Any) -> float:
    """Bytes."""
    if model.device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(model.device)
        return SHARE_OF_GPU * free
    import psutil

    return SHARE_OF_MAIN_MEMORY * psutil.virtual_memory().available


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
