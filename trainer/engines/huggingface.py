"""Provider `huggingface`: transformers loads, PEFT wraps."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gemtune.spec import Spec
from trainer.base_models import config_of
from trainer.chat_template import ChatTemplate, json_object

# What an adapter needs beside its weights to speak as it was taught.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "generation_config.json",
)


def load(folder: Path, spec: Spec) -> Any:
    """The base model wrapped for LoRA: every linear layer, no embeddings and no head, adapters in float32."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = spec.training_config
    # Gemma 2 caps its attention logits, which only the eager implementation does.
    attention = "eager" if config_of(folder).get("attn_logit_softcapping") else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation=attention)
    if model.dtype == torch.float16:  # hidden states of Gemma 3 leave its range
        model = model.to(torch.bfloat16)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora)
    model.peft_config["default"].base_model_name_or_path = config.base_model_id
    return model


def save_adapter(model: Any, base: Path, folder: Path) -> None:
    """Write the adapter as PEFT does, and beside it the base model's tokenizer, chat template and generation config."""
    # Embeddings are never trained, and the check for it would ask the Hub.
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form; export writes a model card
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    # The very template that was trained with, wherever the base model keeps it; this name goes before all others.
    template = ChatTemplate(base, json_object(base / "tokenizer_config.json"))
    (folder / "chat_template.jinja").write_text(template.text)
