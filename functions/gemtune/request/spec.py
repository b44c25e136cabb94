"""The contract: what a request may say, and the frozen, secret-free configuration that a job runs by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from gemtune.errors import SpecUnreadable
from gemtune.jobs.secret_names import REFERENCE, USER_PREFIX
from gemtune.methods import Method, Modality
from gemtune.request.contract import Contract, Loc
from gemtune.request.exports import Export, Format, Quantization, export_of
from gemtune.request.rl_spec import RlConfig

Provider = Literal["unsloth", "huggingface"]
EvaluationMetric = Literal["loss", "accuracy", "perplexity"]
SchedulerType = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]

# A reference to a secret that the user stored beforehand; messages and files carry these, never a token.
SECRET_REFERENCE = rf"^{REFERENCE}{USER_PREFIX}[A-Za-z0-9_-]{{1,64}}$"
# Where a request says the secret of a role.
SECRET_FIELDS: Mapping[str, Loc] = {"hf_token": ("hf_token",), "wandb_api_key": ("wandb_config", "api_key")}
HUB_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
# Tokens a row may have when the request does not say: beyond it, memory grows faster than most rows are worth.
DEFAULT_SEQ_LENGTH = 2048


class TrainingConfig(Contract):
    method: Method = Field(
        "LoRA",
        description="what is trained: an adapter (LoRA; QLoRA on 4-bit weights), all weights (Full), "
        "or an adapter by rewards or preferences (RL)",
    )
    base_model_id: Annotated[str, Field(min_length=1, max_length=1024)] = Field(
        description="the Gemma to start from: a Hub id, `gs://bucket/folder`, or on a workstation a local folder"
    )
    learning_rate: float = Field(2e-4, gt=0, le=1, description="its highest value, after warmup")
    batch_size: int = Field(4, ge=1, le=1024, description="rows per device and forward pass")
    epochs: int = Field(3, ge=1, le=1000, description="how often each row is trained on")
    gradient_accumulation_steps: int = Field(4, ge=1, le=1024, description="forward passes per train_step")
    provider: Provider = Field("huggingface", description="the library that loads and wraps the model")
    eval_strategy: Literal["no", "steps", "epoch"] = Field("no", description="when held-out rows are evaluated")
    eval_steps: int = Field(
        50, ge=1, le=1_000_000, description="train_steps between evaluations, with eval_strategy steps"
    )
    evaluation_metrics: list[EvaluationMetric] = Field(
        ["accuracy", "perplexity"], description="reported in addition to the loss, which always is"
    )
    batch_eval_metrics: bool = Field(
        False, description="transformers' option of this name: metrics are computed per batch; the result is the same"
    )
    lora_rank: int = Field(16, ge=1, le=1024, description="rank of the adapter")
    lora_alpha: float = Field(16, gt=0, le=4096, description="the adapter is scaled by lora_alpha / lora_rank")
    lora_dropout: float = Field(
        0.05, ge=0, lt=1, description="share of the adapter's inputs that are dropped in training"
    )
    max_steps: int | None = Field(None, ge=1, le=10_000_000, description="ends training early; overrides epochs")
    max_seq_length: int | None = Field(
        None, ge=16, le=131_072, description=f"tokens; longer rows are cut; absent: {DEFAULT_SEQ_LENGTH}"
    )
    packing: bool = Field(False, description="fill sequences of max_seq_length with several rows; none sees another")
    lr_scheduler_type: SchedulerType = Field(
        "linear", description="how the learning rate falls; transformers has these names"
    )
    warmup_ratio: float = Field(
        0.0, ge=0, le=1, description="share of the train_steps in which the learning rate rises"
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="of AdamW")
    save_steps: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="train_steps between checkpoints; absent: a tenth of the training, at most 100",
    )
    logging_steps: int = Field(1, ge=1, le=1_000_000, description="train_steps between entries of the loss history")
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="evaluations in a row without a lower eval_loss (GRPO: a higher reward) after which it ends",
    )
    early_stopping_threshold: float = Field(0.0, ge=0, le=100, description="by how much eval_loss has to fall")
    load_best_model_at_end: bool | None = Field(
        None,
        description="end with the weights of the best evaluation instead of the last ones; absent: with early stopping",
    )
    train_vision_tower: bool = Field(
        False, description="of a vision job: train the vision tower too (with method Full the projector as well)"
    )
    rl_config: RlConfig | None = Field(
        None,
        description="for method RL, and only for it; absent: by the rows, DPO for those with chosen and rejected, GRPO "
        "with the reward exact_answer for those with answer",
    )
    seed: int = Field(42, ge=0, le=2**32 - 1, description="of everything random: row order, adapter, dropout, sampling")
    machine: Annotated[str, Field(max_length=40, pattern=SAFE_NAME)] | None = Field(
        None, description="what trains it: a machine type of this deployment; absent: the first that it fits on"
    )

    @property
    def keeps_best(self) -> bool:
        """Whether it ends with the weights of the best evaluation."""
        if self.load_best_model_at_end is None:
            return self.early_stopping_patience is not None
        return self.load_best_model_at_end


class ExportConfig(Contract):
    format: Format = Field("adapter", description="what the result is stored as")
    quantization: Quantization | None = Field(None, description="absent: the format's default")
    destination: Literal["gcs", "hfhub"] = Field(
        "gcs", description="where the result goes: the export bucket, or the Hub as well"
    )
    hf_repo_id: Annotated[str, Field(pattern=HUB_ID)] | None = Field(
        None,
        description="with destination hfhub: the repository, as owner/name; it is created if need be, and is private",
    )


class WandbProject(Contract):
    project: str | None = Field(
        None, min_length=1, max_length=128, description="project at W&B, as project or team/project"
    )


class WandbConfig(WandbProject):
    api_key: str | None = Field(
        None,
        min_length=1,
        max_length=512,
        repr=False,
        description="key of W&B, or secret:gemtune-user-NAME; absent: the service's",
    )


class Notify(Contract):
    webhook_url: str | None = Field(None, max_length=2048, description="where every event is sent to, by https")


class Spec(Contract):
    """A job's configuration, without secrets."""

    processed_dataset_id: str = Field(
        min_length=1,
        max_length=128,
        pattern=SAFE_NAME,
        description="folder of the dataset, below processed_datasets in the data bucket",
    )
    job_name: str = Field(
        "unnamed job", min_length=1, max_length=200, pattern=PRINTABLE, description="a name for people"
    )
    modality: Modality = Field("text", description="what rows hold: text, or text and pictures (vision)")
    training_config: TrainingConfig = Field(description="how to train")
    export_config: ExportConfig = Field(ExportConfig(), description="how to store what was trained")
    wandb_config: WandbProject | None = Field(None, description="follow the training at W&B; absent: do not")
    notify: Notify | None = Field(None, description="where to send events")

    @property
    def export(self) -> Export:
        """The record of the export that is asked for."""
        return export_of(self.export_config.format, self.export_config.quantization)

    @property
    def quantization(self) -> Quantization:
        """The one asked for, or the format's default."""
        return self.export.quantization


def read_spec(stored: bytes) -> Spec:
    """Read the configuration that a job was accepted with. Raises SpecUnreadable, also for a field that only a newer
    version knows: it may change what is trained."""
    try:
        return Spec.model_validate_json(stored)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        unknown = "no such field here" if first["type"] == "extra_forbidden" else first["msg"]
        raise SpecUnreadable(f"{where}: {unknown}") from None


class TrainRequest(Spec):
    """What a user sends. `gemtune.request.parsing.read` reads one."""

    hf_token: str | None = Field(
        None,
        min_length=1,
        max_length=512,
        repr=False,
        description="token of the Hub, or secret:gemtune-user-NAME, to read a gated model or to upload",
    )
    wandb_config: WandbConfig | None = Field(None, description="follow the training at W&B; absent: do not")

    @property
    def infers_rl_algorithm(self) -> bool:
        """Whether the rows of its dataset decide about the RL algorithm."""
        return self.training_config.method == "RL" and self.training_config.rl_config is None

    def spec(self) -> Spec:
        """The request without its secrets."""
        kept = self.model_dump(mode="json", exclude={"hf_token": True, "wandb_config": {"api_key"}})
        return Spec.model_validate_json(json.dumps(kept))

    def secrets(self) -> dict[str, str]:
        """role -> token or reference, for those that are there."""
        wandb_api_key = None if self.wandb_config is None else self.wandb_config.api_key
        found = {"hf_token": self.hf_token, "wandb_api_key": wandb_api_key}
        return {role: value for role, value in found.items() if value is not None}


class ExportRequest(Contract):
    """What a user sends to export once more what a job has trained. What is left out of `job_name` is the job's own;
    a token and a webhook are never taken over."""

    export_config: ExportConfig = Field(description="how to store what was trained")
    job_name: str | None = Field(
        None, min_length=1, max_length=200, pattern=PRINTABLE, description="a name for people; absent: that of the job"
    )
    hf_token: str | None = Field(
        None,
        min_length=1,
        max_length=512,
        repr=False,
        description="token of the Hub, or secret:gemtune-user-NAME, to read a gated model or to upload",
    )
    notify: Notify | None = Field(None, description="where to send events")

    def as_train_request(self, trained: Spec) -> TrainRequest:
        """The request that would have trained the same and exported this."""
        given = self.model_dump(mode="json", exclude_none=True)
        kept = trained.model_dump(mode="json") | {"notify": None, "wandb_config": None}
        return TrainRequest.model_validate_json(json.dumps(kept | given))


def request_hash(request: Spec | ExportRequest, *, parent_job_id: str | None = None) -> str:
    """SHA-256 of the canonical JSON of a request without its secrets: what makes two requests the same."""
    stated = request.model_dump(mode="json", exclude={"hf_token"})
    if parent_job_id is not None:
        stated["parent_job_id"] = parent_job_id
    return hashlib.sha256(json.dumps(stated, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
