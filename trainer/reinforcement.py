"""What both trainers of reinforcement learning have in common: TRL's arguments, its reference, its loss head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Trainer

from gemtune.job import Figures
from gemtune.spec import TrainingConfig
from trainer.chat_template import OWN_END_OF_TURN
from trainer.engines import Loaded
from trainer.job_trainer import arguments, logged


def trl_arguments(loaded: Loaded, config: TrainingConfig, *, output: Path, total_steps: int, evaluates: bool) -> Any:
    """Those of `job_trainer.arguments`, and what TRL's two configurations add to them alike."""
    given = arguments(config, output=output, total_steps=total_steps, evaluates=evaluates)
    return given | {
        "bf16": loaded.compute_dtype == torch.bfloat16,
        "gradient_checkpointing": given["use_cpu"] is False,
        "disable_dropout": True,  # the policy is compared with what it was, and with the base model
    }


def tokenizer_of(base: Path) -> Any:
    """TRL pads, decodes and ends completions with it; prompts are tokenized already."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def end_turns(model: Any, tokenizer: Any) -> None:
    """Let the token that ends a turn end a completion, also where the base model does not say so."""
    token = tokenizer.convert_tokens_to_ids(OWN_END_OF_TURN)
    known = model.generation_config.eos_token_id
    ends = [] if known is None else list(known) if isinstance(known, list) else [known]
    if token is not None and token != tokenizer.unk_token_id and token not in ends:
        model.generation_config.eos_token_id = [*ends, token]


def settle(trainer: Any) -> None:
    """The reference is the base model, the adapter disabled: TRL's copy of a fresh adapter would be the same, twice as
    large. And probabilities go over the vocabulary a block at a time: TRL's own function of plain torch does that, but
    asks for the package liger-kernel first, of which it uses nothing."""
    if "ref" in trainer.model.peft_config:
        trainer.model.delete_adapter("ref")
    trainer.use_liger_kernel = True


def log_figures(trainer: Any, figures: Figures) -> dict[str, float]:
    """TRL's own `log` would add to them what it has of the train_step under way."""
    entry = logged(figures)
    Trainer.log(trainer, entry)
    trainer.hooks.evaluated(trainer.state.global_step, figures)
    trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, entry)
    return entry
