"""Provider `unsloth`: loads and wraps with unsloth's own code and kernels.

Training data, losses, metrics and files are the same as with provider `huggingface`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemtune.errors import StepError
from gemtune.request.rl_spec import GrpoConfig
from gemtune.request.spec import Spec
from gemtune.settings import cache_folder
from trainer.model.engines.interface import BASE_MODEL, LoadedModel, StartingPoint
from trainer.process.crashes import cause_of

if TYPE_CHECKING:
    from peft import PeftModel

    from trainer.base_model.language_model import LanguageModel

# unsloth writes generated kernels to this folder instead of the working directory.
COMPILED_FOLDER = cache_folder() / "unsloth-compiled"
NEEDS_GPU = "run it where torch finds a GPU, or use provider huggingface"
REPAIR = "run `make unsloth`, which repairs its environment, set what it prints, or use provider huggingface"


def prepare(spec: Spec) -> None:
    """Import unsloth, which must come before the packages that it patches.

    Raises StepError `unsloth_missing`, `unsloth_unusable`, `unsloth_needs_gpu`.
    """
    for package in ("unsloth", "unsloth_zoo"):
        if importlib.util.find_spec(package) is None:
            raise StepError("unsloth_missing", f"the trainer's environment has no {package}", hint=REPAIR)
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(COMPILED_FOLDER))
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    try:
        import unsloth
    except MemoryError:
        raise
    except Exception as error:  # on import it patches other packages, which may raise anything
        message = f"unsloth cannot be used here: {cause_of(error)}"
        hint = NEEDS_GPU if isinstance(error, NotImplementedError) else REPAIR  # raised without a supported GPU
        raise StepError("unsloth_unusable", message, hint=hint) from error
    if unsloth.DEVICE_TYPE == "cpu":
        if spec.modality == "vision":
            raise StepError("unsloth_needs_gpu", "unsloth trains on pictures only on a GPU", hint=NEEDS_GPU)
        if spec.training_config.method == "QLoRA":
            raise StepError(
                "unsloth_needs_gpu", "unsloth trains QLoRA only on a GPU", hint=f"{NEEDS_GPU}, or method LoRA"
            )
    unload_trl()


def unload_trl() -> None:
    """Make the next import of TRL load it without unsloth's patches.

    unsloth replaces TRL's trainers by classes without the methods that ours override, and functions by others, one of
    which returns the form of a later TRL: losses, sampling and metrics would be unsloth's. Ours are to be the same for
    every provider.
    """
    for name in [name for name in sys.modules if name == "trl" or name.startswith("trl.")]:
        del sys.modules[name]


def load(folder: Path, spec: Spec, start: StartingPoint = BASE_MODEL) -> LoadedModel:
    """Load the base model; see Engine.load. Requests never have a base job.

    Weights have the same types, and adapters are on the same layers, as with huggingface.
    """
    import torch
    from unsloth import FastLanguageModel, FastVisionModel

    from trainer.base_model import vision_parts
    from trainer.base_model.precision import compute_dtype, stored_dtype
    from trainer.model import adapted_layers

    config, fast = spec.training_config, FastVisionModel if spec.modality == "vision" else FastLanguageModel
    dtype, full = compute_dtype(stored_dtype(folder)), config.method == "Full"
    model, _ = fast.from_pretrained(
        str(folder),
        max_seq_length=_max_positions(folder, spec),
        dtype=torch.float32 if full else dtype,
        load_in_4bit=config.method == "QLoRA",
        full_finetuning=full,
        use_gradient_checkpointing=False,  # the trainer decides about it
        **_device_arguments(folder, full=full),
    )
    if full:
        vision_parts.choose_trained(model, vision=config.train_vision_tower)
        return LoadedModel(model, dtype)
    experts = adapted_layers.target_parameters(model)
    model = fast.get_peft_model(
        model,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=adapted_layers.adapter_dropout(config.lora_dropout, experts),
        target_modules=adapted_layers.target_modules(model, vision_tower=config.train_vision_tower),
        target_parameters=experts,
        bias="none",
        random_state=config.seed,
        use_gradient_checkpointing=False,
    )
    model.peft_config["default"].base_model_name_or_path = config.base_model_id
    if isinstance(config.rl_config, GrpoConfig):
        _keep_padding_mask(model)
    return LoadedModel(model, dtype)


def save(model: LanguageModel, folder: Path) -> None:
    """Write the trained weights; see Engine.save. Raises OSError."""
    from trainer.model.engines import huggingface

    huggingface.save(model, folder)


def _keep_padding_mask(model: PeftModel) -> None:
    """Make unsloth's decoder respect the attention mask while it trains.

    On a GPU, its decoder for Gemma 1 and 2 drops the mask in training, unless the surrounding model was just asked for
    logits without labels; TRL calls the decoder directly. That is harmless with padding on the right, as in our batches
    and DPO's, but GRPO pads prompts on the left, where every token would see the padding.
    """
    module: Any  # only the decoder has this attribute
    for module in model.modules():
        if hasattr(module, "embed_tokens"):
            module._unsloth_keep_padding_mask = True


def _device_arguments(folder: Path, *, full: bool) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that depend on the device.

    Where unsloth uses transformers' decoder (on a CPU, and on a GPU for models or methods that it has no decoder for,
    such as Full), only the eager attention caps scores as Gemma 2 does, and unsloth would choose another. On a GPU it
    keeps trained weights in 16 bits unless `float32_mixed_precision` is set.
    """
    import unsloth

    from trainer.base_model.folder_contents import config_of

    capped = config_of(folder).get("attn_logit_softcapping") is not None
    if unsloth.DEVICE_TYPE == "cpu":
        return {"attn_implementation": "eager" if capped else "sdpa"}
    if not full:
        return {}
    return {"float32_mixed_precision": True} | ({"attn_implementation": "eager"} if capped else {})


def _max_positions(folder: Path, spec: Spec) -> int:
    """Return the most tokens that one row may have."""
    from gemtune.request.training_config import DEFAULT_SEQ_LENGTH
    from trainer.base_model.folder_contents import config_of, max_positions

    requested = spec.training_config.max_seq_length or DEFAULT_SEQ_LENGTH
    return min(requested, max_positions(config_of(folder)) or requested)
