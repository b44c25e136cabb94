"""Provider `huggingface`: loads with transformers and wraps with PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gemtune.request.spec import Spec
from gemtune.request.training_config import TrainingConfig
from trainer.base_model import folder_contents, four_bits, vision_parts
from trainer.base_model.language_model import is_wrapped
from trainer.base_model.precision import compute_dtype, dtype_named, stored_dtype
from trainer.model import adapted_layers, embeddings, liger, loading
from trainer.model.engines.interface import BASE_MODEL, LoadedModel, StartingPoint

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from trainer.base_model.language_model import LanguageModel

ADAPTER = "default"  # PEFT's name for it; TRL adds another one, "ref"


def prepare(spec: Spec) -> None:
    """Do nothing: the trainer itself needs the same packages."""


def load(folder: Path, spec: Spec, start: StartingPoint = BASE_MODEL) -> LoadedModel:
    """Load the base model; see Engine.load.

    LoRA and RL train an adapter on the frozen base model, QLoRA the same on a base model in 4 bits. Full trains all
    weights in float32, since AdamW's small steps vanish in bfloat16's 8 bits of precision.
    """
    import torch

    from trainer.model import row_attention

    row_attention.register()
    config, has_media = spec.training_config, spec.modality != "text"
    stored = stored_dtype(folder) if start.base_dtype is None else dtype_named(start.base_dtype)
    dtype, family = compute_dtype(stored), folder_contents.family_of(folder)
    base = loading.read_whole(
        folder,
        with_media=has_media,
        dtype=torch.float32 if config.method == "Full" else dtype,
        attn_implementation=_attention(folder, spec),
        quantization_config=four_bits.quantization_config(dtype, family) if config.method == "QLoRA" else None,
        # Loaded straight to the GPU, tensor by tensor: main memory need not hold the weights, whose files are mapped.
        device_map="cuda" if torch.cuda.is_available() else None,
    )
    model: LanguageModel = base
    added = None if start.new_tokens is None else start.new_tokens.add_rows(base)
    if config.method != "Full":
        # Training after an evaluation that repacked them would silently lack the gradients through the base model.
        four_bits.keep_unpacked(base, uneven_only=False)
        model = (
            _with_new_adapter(base, config, start, added)
            if start.adapter is None
            else _with_adapter(base, config, start.adapter)
        )
        if model.device.type == "cpu":
            from trainer.model.on_cpu.install import install

            install(model)
    else:
        vision_parts.choose_trained(base, vision=config.train_vision_tower)
    if model.device.type == "cuda":
        liger.install(model)
    return LoadedModel(model, dtype)


def save(model: LanguageModel, folder: Path) -> None:
    """Write the trained weights; see Engine.save. Raises OSError."""
    if is_wrapped(model):
        model.save_pretrained(str(folder), save_embedding_layers=False, selected_adapters=[ADAPTER])
    else:
        model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template; export writes a model card


def _attention(folder: Path, spec: Spec) -> str | dict[str, str]:
    """Return the attention implementation for transformers.

    Text rows are concatenated (`row_attention`). Vision jobs need a mask, since a picture's tokens also see later ones
    of the same picture, and audio jobs pad their rows as these do; RL needs one, since TRL pads.
    """
    from trainer.model import row_attention

    if spec.modality == "text" and spec.training_config.method != "RL":
        return row_attention.NAME
    return loading.masked_attention(folder)


def _with_adapter(base: PreTrainedModel, config: TrainingConfig, folder: Path) -> PeftModel:
    """Wrap the base model with an adapter that another job trained.

    Its weights are trained on, in float32; only its dropout is this job's. Raises StepError `bad_adapter` if its
    weights are not exactly those that the model has for it.
    """
    from peft import LoraConfig, PeftModel

    lora = LoraConfig.from_pretrained(str(folder))
    lora.inference_mode = False
    lora.lora_dropout = adapted_layers.adapter_dropout(config.lora_dropout, lora.target_parameters)
    model = embeddings.finish(PeftModel.from_pretrained(base, str(folder), config=lora, is_trainable=True), folder)
    loading.check_adapter(model, folder, hint="train from a base model")
    return model


def _with_new_adapter(
    base: PreTrainedModel, config: TrainingConfig, start: StartingPoint, added: list[int] | None
) -> PeftModel:
    """Wrap the base model with a LoRA adapter, whose weights are in float32.

    The adapter is on attention and MLP of the language model, on its experts, and on the vision tower if requested.
    added: ids whose rows of the embedding are trained whole; a tied head has the same rows.
    """
    from peft import LoraConfig, get_peft_model

    requested = config.target_modules
    experts = adapted_layers.target_parameters(base, requested)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # it is divided by the rank, and may be a fraction
        lora_dropout=adapted_layers.adapter_dropout(config.lora_dropout, experts),
        target_modules=adapted_layers.target_modules(base, vision_tower=config.train_vision_tower, requested=requested),
        target_parameters=experts,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        bias="none",
        task_type="CAUSAL_LM",
        **embeddings.lora_options(base, added, whole=config.train_embeddings),
    )
    model = embeddings.finish(get_peft_model(base, lora))
    lora.base_model_name_or_path = start.base_name or config.base_model_id
    return model
