"""Whether backward keeps what forward computed, or computes it again (gradient checkpointing) and needs less memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from peft import LoraConfig
    from torch.utils.checkpoint import CheckpointPolicy, SelectiveCheckpointContext
    from transformers import PreTrainedConfig

    from trainer.base_model.language_model import LanguageModel

# Activations are kept up to this share of the memory that is free: a GPU's nobody else uses, a workstation has other
# things to do with its own. And always up to this size.
SHARE_OF_GPU = 0.6
SHARE_OF_MAIN_MEMORY = 0.25
SMALL = 512 * 2**20
# A product with a side shorter than this, as those of an adapter are, costs less than the memory to keep it.
LARGE = 256


def checkpointing(
    model: LanguageModel, tokens: int, *, always: bool = False, computed_in: torch.dtype | None = None
) -> dict[str, Any] | None:
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


def activation_bytes(model: LanguageModel, tokens: int, computed_in: torch.dtype | None = None) -> int:
    """About what the layers keep for backward of so many tokens, counted from forward passes by their widths; weights
    that are cast, and the scores of capped attention, are left out. computed_in: None for the type of the weights.

    Of Gemma 3 270M in bfloat16, in KB a token and layer: 42 with PEFT's adapters, 58 with their dropout, 63 with all
    weights trained; with `trainer.model.on_cpu` 23 and 27, for 21 and 25 seen of rows of 512 tokens; 27 and 43 in 4
    bits.
    """
    from trainer.model.on_cpu.install import is_installed, is_partly_installed

    config, itemsize = model.config.get_text_config(), (computed_in or model.dtype).itemsize
    queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    if is_installed(model):
        numbers = 3 * config.hidden_size + 2 * config.intermediate_size + 3 * (queries + keys) + _of_attention(config)
        dropped = 2 * config.hidden_size + config.intermediate_size + queries  # a byte each
        return int(tokens * config.num_hidden_layers * (numbers * itemsize + (dropped if _dropout(model) else 0)))
    a_token = _in_part(config, itemsize) if is_partly_installed(model) else _by_transformers(model, config, itemsize)
    return int(tokens * config.num_hidden_layers * (a_token + _by_peft(model, config, itemsize)))


def _by_transformers(model: LanguageModel, config: PreTrainedConfig, itemsize: int) -> float:
    """Of a token and layer: the products' inputs, what attention and the gated unit multiply, and each norm's input in
    float32, twice where its weight is trained."""
    trained = _lora_of(model) is None
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


def _in_part(config: PreTrainedConfig, itemsize: int) -> int:
    """The same where all but the linear layers, which are of 4 bits, is of `trainer.model.on_cpu`."""
    heads = (config.num_attention_heads + config.num_key_value_heads) * config.head_dim
    numbers = 6 * config.hidden_size + 3 * config.intermediate_size + 2 * heads + _of_attention(config)
    return int(itemsize * numbers)


def _of_attention(config: PreTrainedConfig) -> int:
    """Numbers a token that `trainer.model.on_cpu` keeps of attention's weights, at most."""
    return int(320 * config.num_attention_heads)


def _by_peft(model: LanguageModel, config: PreTrainedConfig, itemsize: int) -> int:
    """What PEFT's adapters add to it: seven narrow products, and with dropout an input of its own to each, and which of
    it were kept."""
    lora = _lora_of(model)
    if lora is None:
        return 0
    narrow = 7 * lora.r * itemsize
    if not lora.lora_dropout:
        return narrow
    others = config.intermediate_size + config.num_attention_heads * config.head_dim
    a_mask = 1 if model.device.type == "cuda" else itemsize
    inputs, shared = 5 * config.hidden_size + others, 2 * config.hidden_size + others
    return int(narrow + inputs * (itemsize + a_mask) - shared * itemsize)


def _lora_of(model: LanguageModel) -> LoraConfig | None:
    """The adapter's configuration; None where all weights are trained."""
    return cast("LoraConfig", model.peft_config["default"]) if hasattr(model, "peft_config") else None


def _dropout(model: LanguageModel) -> float:
    lora = _lora_of(model)
    return 0.0 if lora is None else lora.lora_dropout


def _first_layer(model: LanguageModel) -> torch.nn.Module:
    return next(module for module in model.modules() if hasattr(module, "self_attn") and hasattr(module, "mlp"))


def _product_bytes(model: LanguageModel, tokens: int, computed_in: torch.dtype | None) -> int:
    """What `keep_products` keeps: of 4B two megabytes a token, ten times what the inputs of its layers take."""
    config = model.config.get_text_config()
    heads = 2 * (config.num_attention_heads + config.num_key_value_heads)
    a_token = 3 * config.hidden_size + 2 * config.intermediate_size + heads * config.head_dim
    return int(tokens * config.num_hidden_layers * a_token * (computed_in or model.dtype).itemsize)


def _share_of_free(model: LanguageModel) -> float:
    """Bytes."""
    if model.device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(model.device)
        return SHARE_OF_GPU * free
    import psutil

    return SHARE_OF_MAIN_MEMORY * psutil.virtual_memory().available


def keep_products() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For `torch.utils.checkpoint`: of what is computed again, all but the products of large matrices and attention,
    which take most of the time and, beside what is made of them element by element, little of the memory."""
    from torch.utils.checkpoint import create_selective_checkpoint_contexts

    forward, recomputed = create_selective_checkpoint_contexts(_policy)
    return forward, recomputed


def _policy(
    context: SelectiveCheckpointContext, operation: torch._ops.OpOverload, *operands: Any, **_: Any
) -> CheckpointPolicy:
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
