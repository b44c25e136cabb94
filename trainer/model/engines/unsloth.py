"""Provider `unsloth`: its own code loads and wraps, with kernels of its own on a GPU. What is trained on, measured and
kept is what provider `huggingface` trains on, measures and keeps."""

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
from trainer.model.engines.interface import Loaded
from trainer.process.crashes import cause_of

if TYPE_CHECKING:
    from peft import PeftModel

    from trainer.base_model.language_model import LanguageModel

# unsloth writes the kernels it generates here, and not into the folder that it happens to run in.
COMPILED = cache_folder() / "unsloth-compiled"
NEEDS_GPU = "run it where torch finds a GPU, or use provider huggingface"
REPAIR = "run `make unsloth`, which repairs its environment, set what it prints, or use provider huggingface"


def prepare(spec: Spec) -> None:
    """Import unsloth, which has to come before all that it changes. Raises StepError `unsloth_missing`,
    `unsloth_unusable`, `unsloth_needs_gpu`."""
    for package in ("unsloth", "unsloth_zoo"):
        if importlib.util.find_spec(package) is None:
            raise StepError("unsloth_missing", f"the trainer's environment has no {package}", hint=REPAIR)
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(COMPILED))
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    try:
        import unsloth
    except MemoryError:
        raise
    except Exception as error:  # it looks into other packages as it is imported, and may meet anything there
        message = f"unsloth cannot be used here: {cause_of(error)}"
        hint = NEEDS_GPU if isinstance(error, NotImplementedError) else REPAIR  # what it raises without a GPU it knows
        raise StepError("unsloth_unusable", message, hint=hint) from error
    if unsloth.DEVICE_TYPE == "cpu":
        if spec.modality == "vision":
            raise StepError("unsloth_needs_gpu", "unsloth trains on pictures on a GPU only", hint=NEEDS_GPU)
        if spec.training_config.method == "QLoRA":
            raise StepError(
                "unsloth_needs_gpu", "unsloth trains QLoRA on a GPU only", hint=f"{NEEDS_GPU}, or method LoRA"
            )
    forget_trl()


def forget_trl() -> None:
    """Let the next import of TRL find it as it was released. unsloth has put classes of its own there, which have not
    the methods that ours extend, and functions of its own, of which one answers in a form of a later TRL: the losses,
    the sampling and the figures would be its own. Ours are to be the same with every provider."""
    for name in [name for name in sys.modules if name == "trl" or name.startswith("trl.")]:
        del sys.modules[name]


def load(folder: Path, spec: Spec) -> Loaded:
    """See Engine.load: the same weights in the same types, and the same layers adapted, as by huggingface."""
    import torch
    from unsloth import FastLanguageModel, FastVisionModel

    from trainer.base_model import vision_parts
    from trainer.base_model.precision import compute_dtype, stored_dtype
    from trainer.model import adapted_layers

    config, fast = spec.training_config, FastVisionModel if spec.modality == "vision" else FastLanguageModel
    dtype, full = compute_dtype(stored_dtype(folder)), config.method == "Full"
    model, _ = fast.from_pretrained(
        str(folder),
        max_seq_length=_positions(folder, spec),
        dtype=torch.float32 if full else dtype,
        load_in_4bit=config.method == "QLoRA",
        full_finetuning=full,
        use_gradient_checkpointing=False,  # the trainer decides
        **_of_this_machine(folder, full=full),
    )
    if full:
        for part in vision_parts.of(model):
            part.requires_grad_(config.train_vision_tower)
        return Loaded(model, dtype)
    model = fast.get_peft_model(
        model,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=adapted_layers.target_modules(model, vision_tower=config.train_vision_tower),
        bias="none",
        random_state=config.seed,
        use_gradient_checkpointing=False,
    )
    model.peft_config["default"].base_model_name_or_path = config.base_model_id
    if isinstance(config.rl_config, GrpoConfig):
        _heed_padding(model)
    return Loaded(model, dtype)


def save(model: LanguageModel, folder: Path) -> None:
    """See Engine.save. Raises OSError."""
    from trainer.model.engines import huggingface

    huggingface.save(model, folder)


def _heed_padding(model: PeftModel) -> None:
    """On a GPU unsloth's own decoder of Gemma 1 and 2 drops the attention mask while it trains, unless the model around
    it was asked for logits without labels just before; TRL asks the decoder itself. That changes nothing in rows that
    are filled up behind their end, ours and DPO's; but GRPO fills prompts up in front, and each token would see it."""
    module: Any  # the decoder, where it has this attribute
    for module in model.modules():
        if hasattr(module, "embed_tokens"):
            module._unsloth_keep_padding_mask = True


def _of_this_machine(folder: Path, *, full: bool) -> dict[str, Any]:
    """Where unsloth is transformers (on a CPU, and on a GPU wherever it has no decoder of its own, as for Full), only
    the eager attention caps scores as Gemma 2 does, and it would choose another. On a GPU it keeps weights in 16 bits
    unless told otherwise."""
    import unsloth

    from trainer.base_model.folder_contents import config_of

    capped = config_of(folder).get("attn_logit_softcapping") is not None
    if unsloth.DEVICE_TYPE == "cpu":
        return {"attn_implementation": "eager" if capped else "sdpa"}
    if not full:
        return {}
    return {"float32_mixed_precision": True} | ({"attn_implementation": "eager"} if capped else {})


def _positions(folder: Path, spec: Spec) -> int:
    """Tokens that a row may have."""
    from gemtune.request.spec import DEFAULT_SEQ_LENGTH
    from trainer.base_model.folder_contents import config_of, max_positions

    asked = spec.training_config.max_seq_length or DEFAULT_SEQ_LENGTH
    return min(asked, max_positions(config_of(folder)) or asked)
