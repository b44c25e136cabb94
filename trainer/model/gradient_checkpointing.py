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


def checkpointing(model: Any, tokens: int, *, always: bool = False, computed_in: Any = None) -> dict[str, Any] | None:
    """None: everything is kept. Else what transformers' `gradient_checkpointing_kwargs` have to be.

    tokens: those of the largest forward pass. always: whatever the memory would allow. computed_in: the type that
    products are made in; None for that of the weights.
    """
    if not always and activation_bytes(model, tokens, computed_in) <= max(SMALL, _share_of_free(model)):
        return None
    how: dict[str, Any] = {"use_reentrant": False}
    if model.device.type == "cuda" and _product_bytes(model, tokens, computed_in) <= _share_of_free(model):
        how["context_fn"] = keep_products
    return how


def activation_bytes(model: Any, tokens: int, computed_in: Any = None) -> int:
    """About what the layers keep for backward of so many tokens, counted from forward passes by their widths; weights
    that are cast, and the scores of capped attention, are left out. computed_in: None for the type of the weights.

    Of Gemma 3 270M in bfloat16, in KB a token and layer: 42 with PEFT's adapters, 58 with their dropout, 63 with all
    weights trained; with `trainer.model.on_cpu` 23 and 27, for 21 and 25 seen of rows of 512 tokens; 27 and 43 in 4
    bits.
    """
    from trainer.model.on_cpu.install import is_installed

    config, itemsize = model.config.get_text_config(), (computed_in or model.dtype).itemsize
    queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    if is_installed(model):
        numbers = 3 * config.hidden_size + 2 * config.intermediate_size + 3 * (queries + keys) + _of_attention(config)
        dropped = 2 * config.hidden_size + config.intermediate_size + queries  # a byte each
        return int(tokens * config.num_hidden_layers * (numbers * itemsize + (dropped if _dropout(model) else 0)))
    a_token = _in_part(config, itemsize) if _is_in_part(model) else _by_transformers(model, config, itemsize)
    return int(tokens * config.num_hidden_layers * (a_token + _by_peft(model, config, itemsize)))


def _by_transformers(model: Any, config: Any, itemsize: int) -> float:
    """Of a token and layer: the products' inputs, what attention and the gated unit multiply, and each norm's input in
    float32, twice where its weight is trained."""
    trained = not _is_adapted(model)
    norms = [type(part).__name__.endswith("RMSNorm") for part in _first_layer(model).children()]
    a_norm = 8 if trained else 4
    # Where products are made in fewer bits than weights have, each has a copy of its input.
    inputs = 5 if trained and model.dtype.itemsize > itemsize else 2
    queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    heads = queries * itemsize * (3.5 if config.num_key_value_heads == 1 else 5)  # keys are repeated for their queries
    if hasattr(_first_layer(model).self_attn, "q_norm"):
        heads += a_norm * (queries + keys)
    wide = config.hidden_size * (inputs * itemsize + a_norm * sum(norms))
    return float(wide + 4 * config.intermediate_size * itemsize + heads)


def _in_part(config: Any, itemsize: int) -> int:
    """The same where all but the linear layers, which are of 4 bits, is of `trainer.model.on_cpu`."""
    heads = (config.num_attention_heads + config.num_key_value_heads) * config.head_dim
    return itemsize * (6 * config.hidden_size + 3 * config.intermediate_size + 2 * heads + _of_attention(config))


def _of_attention(config: Any) -> int:
    """Numbers a token that `trainer.model.on_cpu` keeps of attention's weights, at most."""
    return int(320 * config.num_attention_heads)


def _by_peft(model: Any, config: Any, itemsize: int) -> int:
    """What PEFT's adapters add to it: seven narrow products, and with dropout an input of its own to each, and which of
    it were kept."""
    if not _is_adapted(model):
        return 0
    narrow = 7 * model.peft_config["default"].r * itemsize
    if not _dropout(model):
        return narrow
    others = config.intermediate_size + config.num_attention_heads * config.head_dim
    a_mask = 1 if model.device.type == "cuda" else itemsize
    return (
        narrow + (5 * config.hidden_size + others) * (itemsize + a_mask) - (2 * config.hidden_size + others) * itemsize
    )


def _is_adapted(model: Any) -> bool:
    return hasattr(model, "peft_config")


def _dropout(model: Any) -> float:
    return model.peft_config["default"].lora_dropout if _is_adapted(model) else 0.0


def _is_in_part(model: Any) -> bool:
    from trainer.model.on_cpu import install

    parts = (getattr(module.__dict__.get("forward"), "func", None) for module in model.modules())
    return any(getattr(part, "__module__", None) == install.__name__ for part in parts)


def _first_layer(model: Any) -> Any:
    return next(module for module in model.modules() if hasattr(module, "self_attn") and hasattr(module, "mlp"))


def _product_bytes(model: Any, tokens: int, computed_in: Any) -> int:
    """What `keep_products` keeps: of 4B two megabytes a token, ten times what the inputs of its layers take."""
    config = model.config.get_text_config()
    heads = 2 * (config.num_attention_heads + config.num_key_value_heads)
    a_token = 3 * config.hidden_size + 2 * config.intermediate_size + heads * config.head_dim
    return int(tokens * config.num_hidden_layers * a_token * (computed_in or model.dtype).itemsize)


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
