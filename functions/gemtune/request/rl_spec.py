"""Reinforcement learning in a request: the algorithm and its parameters.

Names and meanings are TRL's (https://huggingface.co/docs/trl/grpo_trainer, …/dpo_trainer, …/kto_trainer).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal, get_args

from pydantic import Field

from gemtune.datasets.choices import CHOICES
from gemtune.datasets.row_options import RL_FORMATS, FormatName, RlFormatName, StatedFormat
from gemtune.methods import Method
from gemtune.request.contract import Contract
from gemtune.request.rewards import AnswerReward, ExactAnswer, Reward

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
KtoLoss = Literal["kto", "apo_zero_unpaired"]
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


class KtoConfig(Contract):
    """Parameters of KTO, which learns from answers labelled good or bad."""

    algorithm: Literal["kto"] = Field(description="selects KTO")
    beta: float = Field(0.1, gt=0, le=100, description="how strongly the model is kept close to the base model")
    loss_type: KtoLoss = Field("kto", description="TRL's name of the loss")
    desirable_weight: float = Field(
        1.0, gt=0, le=1000, description="factor of the loss of answers with label true, to counter their number"
    )
    undesirable_weight: float = Field(
        1.0, gt=0, le=1000, description="factor of the loss of answers with label false, to counter their number"
    )


RlConfig = Annotated[GrpoConfig | DpoConfig | KtoConfig, Field(discriminator="algorithm")]

# Fields that select one of several models for the object they are in.
DISCRIMINATORS: tuple[str, ...] = ("algorithm", "type")


_PAIRS = (
    frozenset({"chosen", "rejected"}),
    frozenset({"preferred_output", "non_preferred_output"}),
    frozenset({"contents", "completions"}),
    *(frozenset(choice.columns) for choice in CHOICES),
)


def infer_rl_config(
    columns: Collection[str], *, completions: int, max_seq_length: int, stated: StatedFormat | None = None
) -> RlConfig | None:
    """Return the rl_config that rows of a format, or with columns, are for.

    Two answers mean DPO, an answer with a label means KTO, and answer alone means GRPO; None if the rows have none of
    these, or several. stated: the rows' format, which decides alone. Parameters get their defaults, or the largest
    values that fit into a train_step with so many completions and rows with so many tokens.
    """
    names = {column.strip().casefold() for column in columns}
    algorithms = [
        algorithm
        for algorithm, is_meant in (
            ("dpo", any(pair <= names for pair in _PAIRS)),
            (
                "kto",
                "label" in names and bool(names & {"completion", "response", "messages", "conversations", "output"}),
            ),
            ("grpo", "answer" in names),
        )
        if is_meant
    ]
    if stated is not None:
        algorithms = [algorithm for algorithm, formats in RL_FORMATS.items() if stated in formats]
    if algorithms == ["dpo"]:
        return DpoConfig(algorithm="dpo")
    if algorithms == ["kto"]:
        return KtoConfig(algorithm="kto")
    return _fitting_grpo(completions, max_seq_length) if algorithms == ["grpo"] else None


def row_formats(method: Method, rl_config: RlConfig | None) -> tuple[StatedFormat, ...]:
    """Return the formats that rows of a method or an algorithm can have."""
    if method != "RL":
        return get_args(FormatName)
    return get_args(RlFormatName) if rl_config is None else RL_FORMATS[rl_config.algorithm]


def _fitting_grpo(completions: int, max_seq_length: int) -> GrpoConfig:
    """Return GRPO's parameters for a train_step and rows of this size."""
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


def answer_columns(config: GrpoConfig) -> list[str]:
    """Return the columns of answers that rewards compare with."""
    columns = (reward.answer_column for reward in config.rewards if isinstance(reward, AnswerReward))
    return list(dict.fromkeys(columns))
