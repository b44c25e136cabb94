"""Contract: the fields of a request, and of the spec that a job runs by.

The spec is frozen and holds no secrets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from gemtune.datasets.files.hub_dataset import HUB_DATASET
from gemtune.datasets.row_options import ReadOptions, SameRole, StatedFormat
from gemtune.datasets.trained_turns import TrainOn
from gemtune.errors import SpecUnreadable
from gemtune.families.generation import LINEAR_LAYERS
from gemtune.jobs.ids import JOB_ID
from gemtune.jobs.parts.holds import Priority
from gemtune.jobs.secret_names import REFERENCE, USER_PREFIX
from gemtune.methods import Method, Modality
from gemtune.request.contract import Contract, Loc
from gemtune.request.exports import Export, Format, Quantization, export_of
from gemtune.request.rl_spec import RlConfig

Provider = Literal["unsloth", "huggingface"]
TooLongOption = Literal["drop", "cut", "refuse"]
EvaluationMetric = Literal["loss", "accuracy", "perplexity"]
SchedulerType = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]

# Reference to a secret that the user stored beforehand. Messages and files contain these instead of tokens.
SECRET_REFERENCE = rf"^{REFERENCE}{USER_PREFIX}[A-Za-z0-9_-]{{1,64}}$"
# The field with the secret for each role.
SECRET_FIELDS: Mapping[str, Loc] = {"hf_token": ("hf_token",), "wandb_api_key": ("wandb_config", "api_key")}
HUB_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
DATASET_ID = rf"^([A-Za-z0-9][A-Za-z0-9._-]{{0,127}}|{HUB_DATASET})$"
# Tokens of a row if the request does not limit them. Beyond that, memory grows faster than longer rows are worth.
DEFAULT_SEQ_LENGTH = 2048
Column = Annotated[str, Field(min_length=1, max_length=200)]
# Caps of a job. The largest ones keep sums of them exact enough.
Usd = Annotated[float, Field(gt=0, le=1e9)]
Hours = Annotated[float, Field(gt=0, le=1e6)]


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
        description="train the vision tower too, of Gemma 4 12B what it has instead; with method Full also the "
        "projector; only with modality vision",
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


class ExportConfig(Contract):
    """Parameters of an export: how and where to store what was trained."""

    format: Format = Field(
        "adapter",
        description="format of the result: PEFT adapter, merged model of transformers, or GGUF file for llama.cpp",
    )
    quantization: Quantization | None = Field(
        None, description="number format of the weights; absent: the default of the format"
    )
    destination: Literal["gcs", "hfhub"] = Field(
        "gcs",
        description="where to store the result: in the export bucket (gcs), or in a Hub repository as well (hfhub)",
    )
    hf_repo_id: Annotated[str, Field(pattern=HUB_ID)] | None = Field(
        None,
        description="Hub repository for the result, as owner/name; needed with destination hfhub; created as a private "
        "repository if it does not exist",
    )
    accept_loss: bool = Field(
        False,
        description="publish the export even if it loses more of the training than its format may; its certificate, "
        "model card, status and file name say so",
    )


class WandbProject(Contract):
    """Project at Weights & Biases that shows the training."""

    project: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="project at W&B, as project or team/project; absent: the default project",
    )


class WandbConfig(WandbProject):
    """Project at Weights & Biases that shows the training, and the key for it."""

    api_key: str | None = Field(
        None,
        min_length=1,
        max_length=512,
        repr=False,
        description="key for W&B, or secret:gemtune-user-NAME for a stored one; absent: the service's own key",
    )


class Notify(Contract):
    """Receiver of a job's events."""

    webhook_url: str | None = Field(
        None, max_length=2048, description="https URL to which every event of the job is posted"
    )


class Spec(Contract):
    """Configuration of a job, without secrets."""

    processed_dataset_id: str = Field(
        min_length=1,
        max_length=512,
        pattern=DATASET_ID,
        description="dataset: its folder in processed_datasets of the data bucket, or "
        "hf://datasets/owner/name[@revision][/folder] on the Hub",
    )
    job_name: str = Field(
        "unnamed job", min_length=1, max_length=200, pattern=PRINTABLE, description="name of the job for its users"
    )
    dataset_format: StatedFormat | None = Field(
        None, description="format of the dataset's rows; absent: the one whose shape a row has"
    )
    dataset_columns: Annotated[dict[Column, Column | None], Field(max_length=64)] = Field(
        {},
        description="the dataset's own names of fields, such as `{messages: conv}`; null for a field to ignore, also "
        "inside of one, such as `{messages.name: null}`",
    )
    modality: Modality = Field(
        "text", description="content of the rows: text, text with pictures (vision), or text with audio clips (audio)"
    )
    training_config: TrainingConfig = Field(description="parameters of the training")
    export_config: ExportConfig = Field(ExportConfig(), description="how and where to store what was trained")
    wandb_config: WandbProject | None = Field(None, description="show the training at W&B; absent: do not")
    notify: Notify | None = Field(None, description="receiver of the job's events; absent: none")
    priority: Priority = Field(
        "normal",
        description="place in the queue for a machine: with `high` a job counts as accepted a day earlier than it was, "
        "with `low` a day later",
    )
    pause_after: Literal["prepare"] | None = Field(
        None, description="step after which the job pauses, to be resumed or cancelled; absent: it does not pause"
    )
    max_cost_usd: Usd | None = Field(
        None,
        description="most that the job may cost in USD, by the prices of its machines; before it costs more it pauses "
        "at a checkpoint, until it is resumed with a higher one; absent: the service's default",
    )
    max_hours: Hours | None = Field(
        None,
        description="most hours that the job's steps may run in total, waits not counted; then it pauses likewise; "
        "absent: the service's default",
    )

    @property
    def export(self) -> Export:
        """Return the record of the requested export."""
        return export_of(self.export_config.format, self.export_config.quantization)

    @property
    def read_options(self) -> ReadOptions:
        """Return how to read the rows of the dataset."""
        config = self.training_config
        return ReadOptions(
            self.dataset_format,
            self.dataset_columns,
            with_pictures=self.modality == "vision",
            with_audio=self.modality == "audio",
            same_role=config.same_role,
        )

    @property
    def quantization(self) -> Quantization:
        """Return the requested quantization, or the default of the format."""
        return self.export.quantization


def read_spec(stored: bytes) -> Spec:
    """Read a stored spec.

    Raises SpecUnreadable, also for a field that only a newer version knows, because it may change what is trained.
    """
    try:
        return Spec.model_validate_json(stored)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        reason = "this version has no such field" if first["type"] == "extra_forbidden" else first["msg"]
        raise SpecUnreadable(f"{where}: {reason}") from None


class TrainRequest(Spec):
    """Request to train."""

    hf_token: str | None = Field(
        None,
        min_length=1,
        max_length=512,
        repr=False,
        description="Hub token, or secret:gemtune-user-NAME for a stored one, to read a gated model or to "
        "upload; absent: the service's own token",
    )
    wandb_config: WandbConfig | None = Field(None, description="show the training at W&B; absent: do not")

    @property
    def infers_rl_algorithm(self) -> bool:
        """Return whether the RL algorithm depends on the rows of the dataset."""
        return self.training_config.method == "RL" and self.training_config.rl_config is None

    def spec(self) -> Spec:
        """Return the request without its secrets."""
        fields = self.model_dump(mode="json", exclude={"hf_token": True, "wandb_config": {"api_key"}})
        return Spec.model_validate_json(json.dumps(fields))

    def secrets(self) -> dict[str, str]:
        """Return the secrets of the request, as role -> token or reference."""
        wandb_api_key = None if self.wandb_config is None else self.wandb_config.api_key
        values = {"hf_token": self.hf_token, "wandb_api_key": wandb_api_key}
        return {role: value for role, value in values.items() if value is not None}


class ExportRequest(Contract):
    """Request for another export of what a job trained.

    The Hub token and the receiver of events are not inherited from that job.
    """

    export_config: ExportConfig = Field(description="how and where to store what was trained")
    job_name: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        pattern=PRINTABLE,
        description="name of the job for its users; absent: that of the job that trained",
    )
    hf_token: str | None = Field(
        None,
        min_length=1,
        max_length=512,
        repr=False,
        description="Hub token, or secret:gemtune-user-NAME for a stored one, to upload; absent: the service's own "
        "token",
    )
    notify: Notify | None = Field(None, description="receiver of the job's events; absent: none")
    priority: Priority = Field("normal", description="place in the queue for a machine, as in a request to train")
    max_cost_usd: Usd | None = Field(
        None, description="most that this export may cost in USD, as in a request to train"
    )
    max_hours: Hours | None = Field(None, description="most hours that this export may run, as in a request to train")

    @classmethod
    def part_of(cls, request: TrainRequest) -> ExportRequest:
        """Return the part of a training request that an export request has."""
        return cls(**{name: getattr(request, name) for name in cls.model_fields})

    def as_train_request(self, trained: Spec) -> TrainRequest:
        """Return a training request with the training of another job.

        trained: spec of that job. Its receiver of events, its W&B project, its pause and its caps are left out.
        """
        own_fields = self.model_dump(mode="json", exclude_none=True)
        dropped = ("notify", "wandb_config", "pause_after", "max_cost_usd", "max_hours")
        inherited = trained.model_dump(mode="json") | dict.fromkeys(dropped)
        return TrainRequest.model_validate_json(json.dumps(inherited | own_fields))


class ResumeRequest(Contract):
    """Request to resume a paused job, with higher caps if it has reached one."""

    max_cost_usd: Usd | None = Field(
        None, description="most that the whole job may cost in USD, with what it has cost; absent: as before"
    )
    max_hours: Hours | None = Field(
        None, description="most hours that the job's steps may run, with those that they ran; absent: as before"
    )


def request_hash(request: Spec | ExportRequest, *, parent_job_id: str | None = None) -> str:
    """Return the hash by which two requests are compared.

    It is the SHA-256 of the request's canonical JSON without secrets. parent_job_id: for an
    export request, the job that trained.
    """
    fields = request.model_dump(mode="json", exclude={"hf_token"})
    if parent_job_id is not None:
        fields["parent_job_id"] = parent_job_id
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
