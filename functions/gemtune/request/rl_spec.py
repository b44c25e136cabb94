"""Reinforcement learning in a request: the algorithm and its parameters.

Names and meanings are TRL's (https://huggingface.co/docs/trl/grpo_trainer, …/dpo_trainer).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field

from gemtune.request.contract import Contract
from gemtune.request.rewards import ExactAnswer, Reward

GrpoLoss = Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
DpoLoss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]
# Only these losses use label smoothing; exo_pair divides by it.
SMOOTHED: frozenset[DpoLoss] = frozenset({"exo_pair", "robust", "aot", "aot_unpaired"})


class GrpoConfig(Contract):
    """Parameters of GRPO, which maximizes rewards of sampled completions."""

    algorithm: Literal["grpo"] = Field(description="selects GRPO")
    rewards: list[Reward] = Field(
        [], max_length=16, description="rewards whose weighted sum is maximized; at least one is needed"
    )
    num_generations: int = Field(
        8, ge=2, le=256, description="completions per prompt, which are compared with each other"
    )
    max_completion_length: int = Field(256, ge=1, le=8192, description="maximum length of a completion, in tokens")
    temperature: float = Field(1.0, gt=0, le=10, description="temperature at which completions are sampled")
    beta: float = Field(0.0, ge=0, le=100, description="weight of the KL divergence from the base model; 0: none")
    loss_type: GrpoLoss = Field("dapo", description="TRL's name of the loss")


class DpoConfig(Contract):
    """Parameters of DPO, which prefers chosen answers to rejected ones."""

    algorithm: Literal["dpo"] = Field(description="selects DPO")
    beta: float = Field(0.1, gt=0, le=100, description="how strongly the model is kept close to the base model")
    loss_type: DpoLoss = Field("sigmoid", description="TRL's name of the loss")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of pairs that are assumed to be labelled the wrong way round"
    )


RlConfig = Annotated[GrpoConfig | DpoConfig, Field(discriminator="algorithm")]

# Fields that select one of several models for the object they are in.
DISCRIMINATORS: tuple[str, ...] = ("algorithm", "type")


def infer_rl_config(columns: Collection[str], *, completions: int, max_seq_length: int) -> RlConfig | None:
    """Return the rl_config that rows with these columns are meant for.

    Columns chosen and rejected mean DPO, and answer means GRPO; None if the rows have neither or both. Parameters get
    their defaults, or the largest values that fit into a train_step with so many completions and rows with so many
    tokens.
    """
    dpo, grpo = {"chosen", "rejected"} <= set(columns), "answer" in columns
    if dpo == grpo:
        return None
    if dpo:
        return DpoConfig(algorithm="dpo")
    config = GrpoConfig(algorithm="grpo", rewards=[ExactAnswer(type="exact_answer")])
    groups = [size for size in range(2, config.num_generations + 1) if completions % size == 0]
    fitting = {
        "num_generations": max(groups, default=config.num_generations),
        "max_completion_length": min(config.max_completion_length, max_seq_length // 2),
    }
    return config.model_copy(update=fitting)


def reward_names(rewards: list[Reward]) -> list[str]:
    """Return the name of each reward, which by default is its type."""
    return [reward.type if reward.name is None else reward.name for reward in rewards]


def needs_answer(config: GrpoConfig) -> bool:
    """Return whether rows need an answer, because a reward compares with it."""
    return any(reward.compares != "nothing" for reward in config.rewards)
