"""Contract: the fields of a request, and of the spec that a job runs by.

The spec is frozen and holds no secrets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from gemtune.datasets.files.hub_dataset import HUB_DATASET
from gemtune.datasets.row_options import ReadOptions, StatedFormat
from gemtune.errors import SpecUnreadable
from gemtune.jobs.parts.holds import Priority
from gemtune.jobs.secret_names import REFERENCE, USER_PREFIX
from gemtune.methods import Modality
from gemtune.request.contract import Contract, Loc
from gemtune.request.exports import Export, Format, Quantization, export_of
from gemtune.request.training_config import TrainingConfig

# Reference to a secret that the user stored beforehand. Messages and files contain these instead of tokens.
SECRET_REFERENCE = rf"^{REFERENCE}{USER_PREFIX}[A-Za-z0-9_-]{{1,64}}$"
# The field with the secret for each role.
SECRET_FIELDS: Mapping[str, Loc] = {"hf_token": ("hf_token",), "wandb_api_key": ("wandb_config", "api_key")}
HUB_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
DATASET_ID = rf"^([A-Za-z0-9][A-Za-z0-9._-]{{0,127}}|{HUB_DATASET})$"
Column = Annotated[str, Field(min_length=1, max_length=200)]
# Caps of a job. The largest ones keep sums of them exact enough.
Usd = Annotated[float, Field(gt=0, le=1e9)]
Hours = Annotated[float, Field(gt=0, le=1e6)]


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
