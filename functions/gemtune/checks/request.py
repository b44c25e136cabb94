"""Contract: the request to check a dataset, and the training it is about."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import Field

from gemtune.datasets.row_options import StatedFormat
from gemtune.errors import Problem
from gemtune.methods import Modality
from gemtune.request.contract import Contract
from gemtune.request.parsing import Reading, read_as
from gemtune.request.spec import SECRET_REFERENCE, Column, TrainRequest
from gemtune.request.training_config import TrainingConfig

STAND_INS = {"base_model_id": "absent/absent"}
MAX_SAMPLES = 100


class CheckRequest(Contract):
    """Request to check what a training would make of a dataset."""

    base_model_id: Annotated[str, Field(min_length=1, max_length=1024)] = Field(
        description="Gemma model whose tokenizer and chat template are used, as in training_config of a job"
    )
    training_config: TrainingConfig = Field(
        TrainingConfig(), description="parameters of the training, without its base model"
    )
    modality: Modality = Field("text", description="content of the rows, as in a job")
    dataset_format: StatedFormat | None = Field(None, description="format of the rows, as in a job")
    dataset_columns: Annotated[dict[Column, Column | None], Field(max_length=64)] = Field(
        {}, description="the dataset's own names of fields, as in a job"
    )
    hf_token: Annotated[str, Field(pattern=SECRET_REFERENCE)] | None = Field(
        None,
        repr=False,
        description="secret:gemtune-user-NAME of a stored Hub token, to read a gated model; absent: the service's own",
    )
    samples: int = Field(5, ge=0, le=MAX_SAMPLES, description="rows to show as text")

    def as_train_request(self, dataset_id: str) -> TrainRequest:
        """Return the request of the job that would train."""
        fields = self.model_dump(mode="json", exclude_unset=True, exclude={"base_model_id", "samples"})
        config = fields.pop("training_config", {}) | {"base_model_id": self.base_model_id}
        return TrainRequest.model_validate_json(
            json.dumps(fields | {"processed_dataset_id": dataset_id, "training_config": config})
        )


def read(document: bytes) -> Reading[CheckRequest]:
    """Parse the request to check a dataset."""
    reading = read_as(CheckRequest, document, STAND_INS, tokens_exposed=True)
    if reading.request is None:
        return reading
    return Reading(reading.request, (*reading.problems, *_problems(reading.request)))


def _problems(request: CheckRequest) -> list[Problem]:
    """Return problems of fields that a check does not take."""
    config, problems = request.training_config, []
    if config.base_model_id not in ("", request.base_model_id):
        message = "another base model than base_model_id of the request"
        problems.append(
            Problem(("training_config", "base_model_id"), message, "field_without_use", "leave one of them out")
        )
    if config.base_job_id is not None:
        message = "a check takes a base model, and not the result of a job"
        hint = "send the base model of that job as base_model_id"
        problems.append(Problem(("training_config", "base_job_id"), message, "field_without_use", hint))
    return problems
