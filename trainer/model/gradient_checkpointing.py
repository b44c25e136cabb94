"""Whether backward keeps what forward computed, or computes it again (gradient checkpointing) and needs less memory."""

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


def arguments(how: dict[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of transformers' Trainer for what `checkpointing` decided, by the names that the installed
    version has: since 5.24 it is called activation checkpointing."""
    from transformers import TrainingArguments

    name = "activation" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient"
    return {f"{name}_checkpointing": how is not None, f"{name}_checkpointing_kwargs": how}


def activation_bytes(model: LanguageModel, tokens: int, computed_in: torch.dtype | None = None) -> int:
    """About what the layers keep for backward of so many tokens, counted from forward passes by their widths; weights
    that are cast, and the scores of capped attention, are left out. computed_in: None for the type of the weights.

    Of Gemma 3 270M in bfloat16, in KB per token and layer: 42 with PEFT's adapters, 58 with their dropout, 63 with all
    weights trained; with `trainer.model.on_cpu` 23 and 27, for 21 and 25 seen of rows of 512 tokens; 27 and 43 in 4
    bits.
    """
    from trainer.model.on_cpu.install import is_installed, is_partly_installed

    itemsize = (computed_in or model.dtype).itemsize
    installed, partly, lora = is_installed(model), is_partly_installed(model), _lora_of(model)
    per_token = 0.0
    for widths in layer_widths(model):
        if installed:
            numbers = 3 * widths.hidden + 2 * widths.intermediate + 3 * (widths.queries + widths.keys)
            dropped = 2 * widths.hidden + widths.intermediate + widths.queries  # a byte each
            per_token += (numbers + _of_attention(widths)) * itemsize + (dropped if _dropout(model) else 0)
        else:
            per_token += _in_part(widths, itemsize) if partly else _by_transformers(model, widths, itemsize)
            per_token += 0 if lora is None else _by_peft(model, lora, widths, itemsize)
    return int(tokens * per_token)


@dataclass(frozen=True, slots=True)
class LayerWidths:
    """Widths of a decoder layer. queries, keys: heads times their dimension; keys is 0 where another layer's are read.
    norms: how many it has. normed_heads: whether queries and keys have norms. experts: the widths of all experts' MLPs
    that read one token together."""

    hidden: int
    intermediate: int
    queries: int
    keys: int
    heads: int
    norms: int
    normed_heads: bool
    experts: int = 0


def layer_widths(model: LanguageModel) -> list[LayerWidths]:
    """The widths of each decoder layer, by its own modules: in Gemma 3n and 4 layers differ."""
    config = model.config.get_text_config()
    return [_widths_of(layer, config) for layer in _layers(model)]


def _widths_of(layer: Any, config: PreTrainedConfig) -> LayerWidths:
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


def _by_transformers(model: LanguageModel, widths: LayerWidths, itemsize: int) -> float:
    """Of a token and layer: the products' inputs, what attention and the gated unit multiply, and each norm's input in
    float32, twice where its weight is trained."""
    trained = _lora_of(model) is None
    a_norm = 8 if trained else 4
    # Where products are made in fewer bits than weights have, each has a copy of its input.
    inputs = 5 if trained and model.dtype.itemsize > itemsize else 2
    one_key_head = widths.keys * widths.heads == widths.queries  # else keys are repeated for their queries
    heads = widths.queries * itemsize * (3.5 if one_key_head else 5)
    if widths.normed_heads:
        heads += a_norm * (widths.queries + widths.keys)
    wide = widths.hidden * (inputs * itemsize + a_norm * widths.norms)
    return float(wide + 4 * (widths.intermediate + widths.experts) * itemsize + heads)


def _in_part(widths: LayerWidths, itemsize: int) -> int:
    """The same where all but the linear layers, which are of 4 bits, is of `trainer.model.on_cpu`."""
    heads = 2 * (widths.queries + widths.keys)
    return itemsize * (6 * widths.hidden + 3 * widths.intermediate + heads + _of_attention(widths))


def _of_attention(widths: LayerWidths) -> int:
    """Numbers per token that `trainer.model.on_cpu` keeps of attention's weights, at most."""
    return 320 * widths.heads


def _by_peft(model: LanguageModel, lora: LoraConfig, widths: LayerWidths, itemsize: int) -> int:
    """What PEFT's adapters add to it: seven narrow products, and with dropout an input of its own to each, and which of
    it were kept."""
    narrow = 7 * lora.r * itemsize
    if not lora.lora_dropout:
        return narrow
    others = widths.intermediate + widths.queries
    a_mask = 1 if model.device.type == "cuda" else itemsize
    inputs, shared = 5 * widths.hidden + others, 2 * widths.hidden + others
    return int(narrow + inputs * (itemsize + a_mask) - shared * itemsize)


def _lora_of(model: LanguageModel) -> LoraConfig | None:
    """The adapter's configuration; None where all weights are trained."""
    return cast("LoraConfig", model.peft_config["default"]) if hasattr(model, "peft_config") else None


def _dropout(model: LanguageModel) -> float:
    lora = _lora_of(model)
    return 0.0 if lora is None else lora.lora_dropout


def _layers(model: LanguageModel) -> list[torch.nn.Module]:
    """Decoder layers of the language model; those of vision towers may have the same parts."""
    towers = [module for name, module in model.named_modules() if name.rpartition(".")[2] in vision_parts.NAMES]
    others = {id(part) for tower in towers for part in tower.modules()}
    return [
        module for module in model.modules()
        if id(module) not in others and hasattr(module, "self_attn") and hasattr(module, "mlp")
    ]  # fmt: skip


def _product_bytes(model: LanguageModel, tokens: int, computed_in: torch.dtype | None) -> int:
    """What `keep_products` keeps: of 4B two megabytes per token, ten times what the inputs of its layers take."""
    numbers = sum(
        3 * widths.hidden + 2 * (widths.intermediate + widths.experts) + 2 * (widths.queries + widths.keys)
        for widths in layer_widths(model)
    )
    return int(tokens * numbers * (computed_in or model.dtype).itemsize)


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
