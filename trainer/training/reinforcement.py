"""Code that the trainers of RL share.

TRL's arguments, its reference model, and log-probabilities computed with the loss head of supervised training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from transformers import AutoTokenizer, Trainer

from gemtune.families import of_model_type, turn_format_of
from gemtune.jobs.parts.metrics import EvaluationMetrics
from trainer.model.embeddings import copy_to_reference
from trainer.model.hidden_states import head_inputs
from trainer.model.loss_head import log_probabilities
from trainer.rows.encoded import UNTRAINED
from trainer.training.interface import JobTrainer, Setup
from trainer.training.job_trainer import arguments, log_entry

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from trainer.base_model.language_model import LanguageModel


class ReinforcementTrainer(JobTrainer, Protocol):
    """A trainer of RL, which extends TRL's."""

    compute_dtype: torch.dtype


def trl_arguments(setup: Setup) -> dict[str, Any]:
    """Return the arguments that TRL's configurations have in common."""
    common = arguments(setup)
    return common | {
        "bf16": setup.loaded.compute_dtype == torch.bfloat16,
        "gradient_checkpointing": common["use_cpu"] is False,
        "disable_dropout": True,  # dropout would distort the ratios to the old policy and to the reference model
    }


def tokenizer_of(base: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the base model, for TRL.

    TRL pads and decodes with it; prompts are tokenized already.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def stop_at_turn_end(model: LanguageModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the tokens that end an answer to the tokens that end a completion.

    These are the token that ends a turn, and the one after which a model waits for the results of its calls. Some base
    models do not name them in their generation config.
    """
    family = of_model_type(model.config.model_type)
    if family is None:
        return
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    turns = turn_format_of(template) or family.turns
    texts = [turns.end, *([turns.hands_over] if turns.hands_over and turns.hands_over in template else [])]
    configured = model.generation_config.eos_token_id
    ends = [] if configured is None else list(configured) if isinstance(configured, list) else [configured]
    tokens = [tokenizer.convert_tokens_to_ids(text) for text in texts]
    missing = [token for token in tokens if token not in (None, tokenizer.unk_token_id, *ends)]
    if missing:
        model.generation_config.eos_token_id = [*ends, *missing]


def choose_reference(trainer: ReinforcementTrainer, setup: Setup) -> None:
    """Make the model that training starts from the reference model.

    TRL has made a copy of the adapter, called `ref`, for it. If the adapter is a new one, its B is zero, and the base
    model with the adapter disabled is equivalent and takes no memory.
    """
    if "ref" not in trainer.model.peft_config:
        return
    if setup.starts_with_adapter:
        copy_to_reference(cast("PeftModel", trainer.model))
    else:
        trainer.model.delete_adapter("ref")


def completion_log_probabilities(
    model: torch.nn.Module,
    inputs: Mapping[str, Any],
    completion_mask: torch.Tensor,
    dtype: torch.dtype,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probability and entropy of each completion token, in nats.

    inputs: of the model, with input_ids (rows, positions). completion_mask: (rows, positions), nonzero at completion
    tokens. dtype: the type to compute in. temperature: logits are divided by it. Both results are (rows, positions - 1)
    in float32, shifted: index i is about token i + 1; they are 0 outside of completions. The entropies have no
    gradient.
    """
    is_completion = completion_mask[:, 1:].bool()
    targets = torch.nn.functional.pad(
        inputs["input_ids"][:, 1:].masked_fill(~is_completion, UNTRAINED), (0, 1), value=UNTRAINED
    )
    inputs_of_head = head_inputs(model, {**inputs, "shift_labels": targets}, dtype)
    values = log_probabilities(
        inputs_of_head.hidden,
        inputs_of_head.head,
        inputs_of_head.targets,
        soft_cap=inputs_of_head.soft_cap,
        temperature=temperature,
        rows=inputs_of_head.rows,
    )
    logps, entropies = (value.new_zeros(is_completion.shape).masked_scatter(is_completion, value) for value in values)
    return logps, entropies


def log_evaluation(trainer: JobTrainer, metrics: EvaluationMetrics) -> dict[str, float]:
    """Log an evaluation and call the evaluation hooks; return the log entry.

    transformers' `log` is called directly: TRL's own would add metrics of the unfinished train_step to the entry.
    """
    assert isinstance(trainer, Trainer)
    entry = log_entry(metrics)
    Trainer.log(trainer, entry)
    trainer.hooks.evaluated(trainer.state.global_step, metrics)
    trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, entry)
    return entry
