"""What a request says of reinforcement learning: the algorithm and its parameters.

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
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip
# Label smoothing has a meaning for these losses only; exo_pair divides by it.
SMOOTHED: frozenset[DpoLoss] = frozenset({"exo_pair", "robust", "aot", "aot_unpaired"})


class GrpoConfig(Contract):
    algorithm: Literal["grpo"] = Field(description="GRPO: completions are sampled, and rewarded")
    rewards: list[Reward] = Field([], max_length=16, description="at least one; their weighted sum is maximized")
    num_generations: int = Field(8, ge=2, le=256, description="completions per prompt that are compared")
    max_completion_length: int = Field(256, ge=1, le=8192, description="tokens a completion is sampled to at most")
    temperature: float = Field(1.0, gt=0, le=10, description="of sampling completions")
    beta: float = Field(0.0, ge=0, le=100, description="weight of the KL divergence from the base model")
    loss_type: GrpoLoss = Field("dapo", description="TRL's name of the loss")


class DpoConfig(Contract):
    algorithm: Literal["dpo"] = Field(description="DPO: chosen answers are preferred to rejected ones")
    beta: float = Field(0.1, gt=0, le=100, description="weight of staying close to the base model")
    loss_type: DpoLoss = Field("sigmoid", description="TRL's name of the loss")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of pairs assumed to be labelled the wrong way round"
    )


RlConfig = Annotated[GrpoConfig | DpoConfig, Field(discriminator="algorithm")]

# Fields that say which of several models the rest of an object is.
DISCRIMINATORS: tuple[str, ...] = ("algorithm", "type")


def infer_rl_config(columns: Collection[str], *, completions: int, max_seq_length: int) -> RlConfig | None:
    """Return what rows with these columns are for, None when they say nothing, or two things.

    Parameters are at their defaults; where a train_step has fewer completions than a group of them, or a row too few
    tokens, at the largest values that fit.
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
    """What each reward is called."""
    return [reward.type if reward.name is None else reward.name for reward in rewards]


def needs_answer(config: GrpoConfig) -> bool:
    """Whether rows have to say what is right."""
    return any(reward.compares != "nothing" for reward in config.rewards)
