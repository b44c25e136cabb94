"""Placement: the machine that a request needs.

It is chosen at once if the size of the base model is known, else by the prepare step, which has the weights. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gemtune.families.size import ModelSize
from gemtune.machines import choice
from gemtune.machines.export_memory import memory_for_export
from gemtune.machines.memory import TrainingLoad
from gemtune.methods import Modality
from gemtune.request.exports import EXPORTS
from gemtune.request.facts import Facts
from gemtune.request.rl_spec import DpoConfig, GrpoConfig, KtoConfig
from gemtune.request.spec import Spec
from gemtune.request.training_config import DEFAULT_SEQ_LENGTH, TrainingConfig


def load_of(config: TrainingConfig, modality: Modality) -> TrainingLoad:
    """Return the parameters of a request on which its memory depends."""
    completions = config.batch_size * config.gradient_accumulation_steps
    return TrainingLoad(
        config.method,
        config.batch_size,
        config.max_seq_length or DEFAULT_SEQ_LENGTH,
        config.lora_rank,
        modality,
        sequences_per_row=2 if isinstance(config.rl_config, DpoConfig) else 1,
        sampled_completions=completions if isinstance(config.rl_config, GrpoConfig) else 0,
        group_size=config.rl_config.num_generations if isinstance(config.rl_config, GrpoConfig) else 1,
        dora=config.use_dora,
        embedding=_trained_embedding(config),
        train_tower=config.train_vision_tower and modality == "vision",
        least_batch=2 if isinstance(config.rl_config, KtoConfig) else 1,
        completion_length=config.rl_config.max_completion_length if isinstance(config.rl_config, GrpoConfig) else 0,
    )


def _trained_embedding(config: TrainingConfig) -> Literal["frozen", "rows", "whole"]:
    """Return how much of the embedding is trained beside an adapter."""
    if config.method == "Full":  # it has no adapter
        return "frozen"
    return "whole" if config.train_embeddings else "frozen" if config.new_tokens is None else "rows"


def machine(spec: Spec, facts: Facts) -> str | None:
    """Choose the machine that trains; None while the model's size is unknown.

    If the request names a machine, it must be one of the deployment's. Raises NeedsLargerMachine.
    """
    config = spec.training_config
    return choice.choose_machine(facts.deployment.machines, config.machine, facts.size, load_of(config, spec.modality))


def export_machine(spec: Spec, facts: Facts) -> str | None:
    """Choose the machine that exports, as `export_machine_for` does."""
    return export_machine_for(spec, facts.size, facts.deployment.machines)


def export_machine_for(spec: Spec, size: ModelSize | None, machines: Sequence[str]) -> str | None:
    """Choose the machine that exports a model of a size.

    Returns None for the usual machine of exports, and while the model's size is unknown. Raises NeedsLargerMachine.
    machines: names of the deployment's training machines.
    """
    if size is None:
        return None
    config = spec.training_config
    need = memory_for_export(
        size,
        config.method,
        config.lora_rank,
        EXPORTS[spec.export_config.format].local_bytes,
        whole_embedding=_trained_embedding(config) == "whole",
        fp16=spec.export_config.quantization == "fp16",  # the rules check afterwards whether the format has it
    )
    return choice.choose_export_machine(machines, need)
