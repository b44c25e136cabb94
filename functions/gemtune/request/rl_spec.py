"""What a request says of reinforcement learning: the algorithm, and the rewards that GRPO maximizes.

Names and meanings are TRL's (https://huggingface.co/docs/trl/grpo_trainer, …/dpo_trainer). No reward runs code of the
user: each is one of the functions of `trainer/rows/rewards.py`, with parameters.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gemtune.request.contract import Contract

GrpoLoss = Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
DpoLoss = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip
# Label smoothing has a meaning for these losses only; exo_pair divides by it.
SMOOTHED: frozenset[DpoLoss] = frozenset({"exo_pair", "robust", "aot", "aot_unpaired"})

Tokens = Annotated[int, Field(ge=1, le=8192)]


class RewardBase(Contract):
    name: str | None = Field(
        None, pattern=r"^[a-z0-9_]{1,40}$", description="what it is called in metrics; absent: its type"
    )
    weight: float = Field(1.0, ge=-100, le=100, description="its factor in the sum; negative: a penalty")


class AnswerReward(RewardBase):
    after: str | None = Field(
        None, min_length=1, max_length=100, description="the answer stands after the last one of these; absent: all"
    )


class ExactAnswer(AnswerReward):
    """1 when the completion's answer is the row's, spaces aside."""

    type: Literal["exact_answer"]
    ignore_case: bool = False


class NumericAnswer(AnswerReward):
    """1 when the last number of the completion's answer is the row's, within a tolerance."""

    type: Literal["numeric_answer"]
    tolerance: float = Field(0.0, ge=0, le=1e12, description="absolute")


class Regex(RewardBase):
    """1 when the pattern is found in the completion."""

    type: Literal["regex"]
    pattern: str = Field(min_length=1, max_length=1000, description="RE2 syntax; anchor it with ^ and $")


class JsonSchema(RewardBase):
    """1 when the completion, or its last code block, is JSON that the schema allows."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(description="JSON Schema, draft 2020-12")


class Length(RewardBase):
    """1 when the completion has a number of tokens, its end of turn among them, within bounds; less the further off."""

    type: Literal["length"]
    at_least: Tokens | None = None
    at_most: Tokens | None = None


Reward = Annotated[ExactAnswer | NumericAnswer | Regex | JsonSchema | Length, Field(discriminator="type")]


class GrpoConfig(Contract):
    algorithm: Literal["grpo"]
    rewards: list[Reward] = Field([], max_length=16, description="at least one; their weighted sum is maximized")
    num_generations: int = Field(8, ge=2, le=256, description="completions per prompt that are compared")
    max_completion_length: int = Field(256, ge=1, le=8192, description="tokens")
    temperature: float = Field(1.0, gt=0, le=10)
    beta: float = Field(0.0, ge=0, le=100, description="weight of the KL divergence from the base model")
    loss_type: GrpoLoss = "dapo"


class DpoConfig(Contract):
    algorithm: Literal["dpo"]
    beta: float = Field(0.1, gt=0, le=100, description="how dear it is to leave the base model")
    loss_type: DpoLoss = "sigmoid"
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of pairs thought to be the wrong way round")


RlConfig = Annotated[GrpoConfig | DpoConfig, Field(discriminator="algorithm")]

# Fields that say which of several models the rest of an object is.
DISCRIMINATORS: tuple[str, ...] = ("algorithm", "type")
Answered: tuple[type[RewardBase], ...] = (ExactAnswer, NumericAnswer)


def names(rewards: list[Reward]) -> list[str]:
    """What each reward is called."""
    return [reward.type if reward.name is None else reward.name for reward in rewards]


def needs_answer(config: GrpoConfig) -> bool:
    """Whether rows have to say what is right."""
    return any(isinstance(reward, Answered) for reward in config.rewards)
