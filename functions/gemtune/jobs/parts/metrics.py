"""Metrics of a training, and its progress while it runs."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from gemtune.jobs.parts.base import Record


class Progress(Record):
    """Progress of the train step, as its attempt last reported it."""

    train_step: int = Field(0, description="train_steps (optimizer updates) done so far")
    total_steps: int = Field(0, description="train_steps of the whole training")
    epoch: float = Field(0.0, description="epochs done so far, with fraction")
    loss: float | None = Field(None, description="training loss of this train_step")
    reward: float | None = Field(None, description="GRPO: mean reward of this train_step's completions")
    margin: float | None = Field(
        None, description="DPO, KTO: margin between the implicit rewards of good and bad answers in this train_step"
    )
    learning_rate: float | None = Field(None, description="learning rate of this train_step")
    tokens_per_second: float | None = Field(None, description="tokens trained on per second")
    eta_seconds: float | None = Field(None, description="estimated seconds until training ends")


class EvaluationMetrics(Record):
    """Metrics of one evaluation on held-out rows.

    Metrics that do not apply are null.
    """

    eval_loss: float | None = Field(None, description="mean loss per trained token in nats; for DPO and KTO their loss")
    accuracy: float | None = Field(None, description="share of trained tokens that are the model's first choice")
    perplexity: float | None = Field(None, description="exp(eval_loss)")
    reward: float | None = Field(None, description="GRPO: mean reward of completions of the held-out prompts")
    rewards: Mapping[str, float] | None = Field(
        None, description="GRPO: mean of each reward by name, before it is multiplied by its weight"
    )
    margin: float | None = Field(
        None,
        description="DPO, KTO: how much more likely than under the base model the good answers became than the bad "
        "ones, in nats times beta; null if all rows have the same label",
    )
    preference_accuracy: float | None = Field(None, description="DPO: share of pairs with a positive margin")

    def by_name(self) -> dict[str, float]:
        """Return the metrics that are present.

        The parts of a reward are called `rewards/<name>`.
        """
        single = {name: getattr(self, name) for name in EvaluationMetrics.model_fields if name != "rewards"}
        parts = {f"rewards/{name}": value for name, value in (self.rewards or {}).items()}
        return {name: value for name, value in (single | parts).items() if value is not None}


class Metrics(EvaluationMetrics):
    """Metrics after training, and those of the base model before it."""

    train_step: int | None = Field(
        None, description="train_step whose weights were evaluated: the last one, or that of the best evaluation"
    )
    train_loss: float | None = Field(None, description="training loss that was logged last")
    baseline: EvaluationMetrics | None = Field(None, description="the same metrics of the base model before training")
