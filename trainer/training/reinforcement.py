"""What both trainers of reinforcement learning have in common: TRL's arguments, its reference, and log-probabilities
by the loss head of supervised training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import AutoTokenizer, Trainer

from gemtune.families import of_model_type
from gemtune.jobs.record import EvaluationMetrics
from trainer.model.engines.interface import Loaded
from trainer.model.hidden_states import predictions
from trainer.model.loss_head import log_probabilities
from trainer.rows.encoder import UNTRAINED
from trainer.training.interface import JobTrainer, Setup
from trainer.training.job_trainer import arguments, logged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trainer.base_model.language_model import LanguageModel


class ReinforcementTrainer(JobTrainer, Protocol):
    """One of TRL's two trainers, as ours extend them."""

    compute_dtype: torch.dtype


def trl_arguments(setup: Setup) -> dict[str, Any]:
    """Those of `job_trainer.arguments`, and what TRL's two configurations add to them alike."""
    given = arguments(setup)
    return given | {
        "bf16": setup.loaded.compute_dtype == torch.bfloat16,
        "gradient_checkpointing": given["use_cpu"] is False,
        "disable_dropout": True,  # the policy is compared with what it was, and with the base model
    }


def tokenizer_of(base: Path) -> PreTrainedTokenizerBase:
    """TRL pads, decodes and ends completions with it; prompts are tokenized already."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def end_turns(model: LanguageModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the token that ends a turn end a completion, also where the base model does not say so."""
    family = of_model_type(model.config.model_type)
    if family is None:
        return
    token = tokenizer.convert_tokens_to_ids(family.turns.end)
    known = model.generation_config.eos_token_id
    ends = [] if known is None else list(known) if isinstance(known, list) else [known]
    if token is not None and token != tokenizer.unk_token_id and token not in ends:
        model.generation_config.eos_token_id = [*ends, token]


def settle(trainer: ReinforcementTrainer, loaded: Loaded) -> None:
    """The reference is the base model, the adapter disabled: TRL's copy of a fresh adapter would be the same, twice as
    large."""
    if "ref" in trainer.model.peft_config:
        trainer.model.delete_adapter("ref")
    trainer.compute_dtype = loaded.compute_dtype


def log_probabilities_in(
    model: torch.nn.Module,
    inputs: Mapping[str, Any],
    answered: torch.Tensor,
    dtype: torch.dtype,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each token of the answers was to the model: its log-probability, and the entropy of all that might have
    stood there. Both (rows, positions - 1), shifted as targets are, and 0 elsewhere.

    inputs: what the model takes, input_ids (rows, positions) among it. answered: (rows, positions), which tokens are
    the answers'.
    """
    wanted = answered[:, 1:].bool()
    targets = torch.nn.functional.pad(
        inputs["input_ids"][:, 1:].masked_fill(~wanted, UNTRAINED), (0, 1), value=UNTRAINED
    )
    found = predictions(model, {**inputs, "shift_labels": targets}, dtype)
    values = log_probabilities(
        found.hidden, found.head, found.targets, soft_cap=found.soft_cap, temperature=temperature
    )  # fmt: skip
    logs, entropies = (of.new_zeros(wanted.shape).masked_scatter(wanted, of) for of in values)
    return logs, entropies


def log_figures(trainer: JobTrainer, figures: EvaluationMetrics) -> dict[str, float]:
    """TRL's own `log` would add to them what it has of the train_step under way."""
    assert isinstance(trainer, Trainer)
    entry = logged(figures)
    Trainer.log(trainer, entry)
    trainer.hooks.evaluated(trainer.state.global_step, figures)
    trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, entry)
    return entry
