"""Training of the embedding, or of some of its rows, beside an adapter.

PEFT trains copies of them: `modules_to_save` of the whole embedding, `trainable_token_indices` of rows. Where the
output head is the embedding, both stay one matrix.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from trainer.base_model.language_model import unwrap

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

EMBEDDING, HEAD = "embed_tokens", "lm_head"


class Options(TypedDict):
    """Arguments of PEFT's LoraConfig."""

    modules_to_save: list[str] | None
    ensure_weight_tying: bool
    trainable_token_indices: dict[str, list[int]] | None


def lora_options(base: PreTrainedModel, added: list[int] | None, *, whole: bool) -> Options:
    """Return the options of an adapter that trains the embedding or its rows.

    added: ids whose rows are trained, also those of a head of its own; None for none. whole: train all rows of the
    embedding.
    """
    is_tied = base.get_output_embeddings().weight is base.get_input_embeddings().weight
    by_rows = [*([] if whole else [EMBEDDING]), *([] if is_tied else [HEAD])]
    return {
        "modules_to_save": [EMBEDDING] if whole else None,
        "ensure_weight_tying": whole and is_tied,
        "trainable_token_indices": dict.fromkeys(by_rows, added) if added is not None and by_rows else None,
    }


def finish(model: PeftModel, folder: Path | None = None) -> PeftModel:
    """Train a whole embedding in float32, and keep checkpoints small.

    PEFT leaves its copy of the embedding in the type of the base model, in which AdamW's small steps vanish. folder: of
    the adapter that the model has, whose embedding is read again without rounding; None for a new adapter.
    """
    table: Any = unwrap(model).get_input_embeddings()
    if _copies(table):
        _use_float32(table, "default")
        if folder is not None:
            from peft.utils import load_peft_weights, set_peft_model_state_dict

            set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    # PEFT would save the whole embedding of the base model too if it was resized, which it asks the Hub about.
    vars(model)["save_pretrained"] = partial(model.save_pretrained, save_embedding_layers=False)
    return model


def copy_to_reference(model: PeftModel) -> None:
    """Copy the embedding and its rows from adapter `default` to `ref`.

    TRL copies parameters by names that contain `.default.`, which those of rows do not, and in the type of the base
    model.
    """
    layers: list[Any] = [unwrap(model).get_input_embeddings(), unwrap(model).get_output_embeddings()]
    for layer in layers:
        if _copies(layer):
            if layer is layers[0]:
                _use_float32(layer, "ref")
            layer.modules_to_save["ref"].weight.data.copy_(layer.modules_to_save["default"].weight.data)
        elif hasattr(layer, "token_adapter"):
            rows = layer.token_adapter.trainable_tokens_delta
            rows["ref"].data.copy_(rows["default"].data)


def _copies(layer: Any) -> bool:
    """Return whether PEFT trains a copy of a layer."""
    return hasattr(layer, "modules_to_save")


def _use_float32(table: Any, adapter: str) -> None:
    """Convert PEFT's copy of the embedding; its outputs keep their type.

    A tied head has the same parameter.
    """
    copy = table.modules_to_save[adapter]
    copy.weight.data = copy.weight.data.float()
    copy.register_forward_hook(partial(_as_before, table.original_module))


def _as_before(
    original: torch.nn.Module, copy: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor
) -> torch.Tensor:
    """Return an output in the type of the original layer's weights."""
    return output.to(original.get_parameter("weight").dtype)
