"""Parameters of a training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gemtune.datasets.row_options import SameRole
from gemtune.datasets.trained_turns import TrainOn
from gemtune.families.generation import LINEAR_LAYERS
from gemtune.jobs.ids import JOB_ID
from gemtune.methods import Method
from gemtune.request.contract import Contract
from gemtune.request.rl_spec import RlConfig

Provider = Literal["unsloth", "huggingface"]
TooLongOption = Literal["drop", "cut", "refuse"]
EvaluationMetric = Literal["loss", "accuracy", "perplexity"]
SchedulerType = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]
SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
# Tokens of a row if the request does not limit them. Beyond that, memory grows faster than longer rows are worth.
DEFAULT_SEQ_LENGTH = 2048


LayerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=100)]
# A blank would be written as U+2581 in some of a model's files and as it is in others.
TokenText = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f\x7f\u2581]+$", min_length=1, max_length=100)]
ALL_LINEAR = "all-linear"


def _as_list(value: object) -> object:
    """Return PEFT's word for all linear layers as a list of their names."""
    return list(LINEAR_LAYERS) if value == ALL_LINEAR else value


def _target_modules_schema(schema: dict[str, Any]) -> None:
    """Add PEFT's word for all linear layers to the schema of a list."""
    schema["anyOf"].insert(1, {"const": ALL_LINEAR, "type": "string"})


class TrainingConfig(Contract):
    """Parameters of the training."""

    method: Method = Field(
        "LoRA",
        description="training method: an adapter (LoRA), an adapter on 4-bit weights (QLoRA), all weights (Full), "
        "or an adapter by reinforcement learning (RL)",
    )
    base_model_id: Annotated[str, Field(max_length=1024)] = Field(
        "",
        description="Gemma model to start from: a Hub id, `gs://bucket/folder`, or on a workstation an absolute local "
        "folder; required, except with base_job_id: then that job's base model",
    )
    base_job_id: Annotated[str, Field(pattern=JOB_ID)] | None = Field(
        None,
        description="finished job to train on from, with its adapter or its model; absent: start from the base model",
    )
    learning_rate: float = Field(2e-4, gt=0, le=1, description="peak learning rate, which is reached after the warmup")
    batch_size: int = Field(4, ge=1, le=1024, description="rows per forward pass")
    epochs: int = Field(3, ge=1, le=1000, description="number of passes over all rows; max_steps overrides it")
    gradient_accumulation_steps: int = Field(
        4, ge=1, le=1024, description="forward passes per train_step, that is per optimizer update"
    )
    provider: Provider = Field("huggingface", description="library that loads the model and adds the adapter")
    eval_strategy: Literal["no", "steps", "epoch"] = Field(
        "no",
        description="when to evaluate the held-out rows during training: never, every eval_steps, or after each epoch",
    )
    eval_steps: int = Field(
        50, ge=1, le=1_000_000, description="train_steps between evaluations; only with eval_strategy steps"
    )
    evaluation_metrics: list[EvaluationMetric] = Field(
        ["accuracy", "perplexity"], description="metrics to report in addition to the loss, which is always reported"
    )
    batch_eval_metrics: bool = Field(
        False,
        description="compute metrics batch by batch, like transformers' option of this name; the result is the same",
    )
    lora_rank: int = Field(16, ge=1, le=1024, description="rank r of the adapter")
    lora_alpha: float = Field(
        16, gt=0, le=4096, description="scale of the adapter, whose output is multiplied by lora_alpha / lora_rank"
    )
    lora_dropout: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="probability with which inputs of the adapter are dropped in training; 0 for a mixture of experts",
    )
    target_modules: Annotated[list[LayerName] | None, BeforeValidator(_as_list)] = Field(
        None,
        min_length=1,
        max_length=32,
        json_schema_extra=_target_modules_schema,
        description="layers of the language model that the adapter is on, by the ends of their names as in PEFT, or "
        "all-linear: every linear layer of attention and MLP; absent: these, and the experts of a mixture",
    )
    use_rslora: bool = Field(
        False, description="rank-stabilized LoRA, as in PEFT: the scale is lora_alpha / sqrt(lora_rank)"
    )
    use_dora: bool = Field(
        False, description="DoRA, as in PEFT: the adapter trains magnitude and direction of the weights; takes longer"
    )
    new_tokens: list[TokenText] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="strings that become ordinary tokens of the tokenizer; their rows of the embedding, and of the "
        "output head, begin as the mean of the tokens that they were before, and are trained",
    )
    train_embeddings: bool = Field(
        False,
        description="train the whole embedding beside the adapter, and the output head with it where both are one "
        "matrix; method Full trains them anyway",
    )
    max_steps: int | None = Field(
        None, ge=1, le=10_000_000, description="number of train_steps; absent: as many as epochs take"
    )
    max_seq_length: int | None = Field(
        None,
        ge=16,
        le=131_072,
        description=f"maximum length of a row in tokens; too_long says what happens to longer rows; absent: "
        f"{DEFAULT_SEQ_LENGTH}",
    )
    too_long: TooLongOption = Field(
        "drop",
        description="what to do with rows of more than max_seq_length tokens: leave them out (drop), cut them there, "
        "which teaches the model not to end its answers (cut), or fail the job (refuse)",
    )
    train_on: TrainOn = Field(
        "all_assistant_turns",
        description="the assistant's turns to learn: all of them or the last one, except those with weight 0; or only "
        "those with weight 1",
    )
    same_role: SameRole = Field(
        "refuse",
        description="rows with two turns of one role in a row: refuse them, or merge such turns with a blank line",
    )
    packing: bool = Field(
        False,
        description="put several rows into each sequence of max_seq_length tokens, without attention between them",
    )
    lr_scheduler_type: SchedulerType = Field(
        "linear", description="schedule of the learning rate after the warmup, by transformers' name"
    )
    warmup_ratio: float = Field(
        0.0, ge=0, le=1, description="share of the train_steps in which the learning rate rises from 0 to its peak"
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="weight decay of AdamW")
    save_steps: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="train_steps between checkpoints; absent: a tenth of the training, but at most 100",
    )
    save_minutes: int = Field(
        10,
        ge=1,
        le=10_080,
        description="save a checkpoint also when the newest one is so many minutes old, so that an interruption costs "
        "no more than that",
    )
    logging_steps: int = Field(1, ge=1, le=1_000_000, description="train_steps between entries of the loss history")
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="stop after so many evaluations in a row without a lower eval_loss (GRPO: a higher reward); "
        "absent: never stop early",
    )
    early_stopping_threshold: float = Field(
        0.0,
        ge=0,
        le=100,
        description="smallest improvement of eval_loss (GRPO: of the reward) that counts; only with "
        "early_stopping_patience",
    )
    load_best_model_at_end: bool | None = Field(
        None,
        description="keep the weights of the best evaluation, not the last ones; absent: only with early stopping",
    )
    train_vision_tower: bool = Field(
        False,
        description="train the vision tower too (in Gemma 4 12B, which has none, the layers that embed pictures); with "
        "method Full also the projector; only with modality vision",
    )
    rl_config: RlConfig | None = Field(
        None,
        description="algorithm of method RL, and its parameters; only with method RL; absent: DPO if the rows have "
        "chosen and rejected, KTO if they have label, GRPO with the reward exact_answer if they have answer",
    )
    seed: int = Field(
        42,
        ge=0,
        le=2**32 - 1,
        description="seed of everything random: order of rows, initial adapter, dropout, sampling",
    )
    machine: Annotated[str, Field(max_length=40, pattern=SAFE_NAME)] | None = Field(
        None, description="machine type of this deployment that trains; absent: the first one with enough memory"
    )

    @property
    def keeps_best(self) -> bool:
        """Return whether training keeps the weights of the best evaluation."""
        if self.load_best_model_at_end is None:
            return self.early_stopping_patience is not None
        return self.load_best_model_at_end
