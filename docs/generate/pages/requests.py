"""Pages of requests and of rewards, from the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from pydantic import BaseModel

from docs.generate.text.markdown import Page, code, sentence
from docs.generate.text.schemas import field_rows
from gemtune.checks.request import CheckRequest
from gemtune.request import rewards
from gemtune.request.rl_spec import DpoConfig, GrpoConfig, KtoConfig
from gemtune.request.spec import ExportConfig, ExportRequest, Notify, ResumeRequest, TrainRequest, WandbConfig
from gemtune.request.training_config import TrainingConfig
from gemtune.request.uploads.dataset import DatasetUpload, PartLinksRequest, PartOfFile, UploadFile

HEAD = ("field", "type", "default", "meaning")
REWARDS: tuple[type[rewards.RewardBase], ...] = get_args(get_args(rewards.Reward)[0])
COMPARED: Mapping[str, str] = {
    "nothing": "needs nothing of a row",
    "answer": "compares with the row's `answer`",
    "number": "compares with the number in the row's `answer`",
}
# Each model with where it stands in a request.
SECTIONS: Mapping[type[BaseModel], str] = {
    TrainRequest: "The body of `POST /train`, a message of job-requests, and a job file.",
    TrainingConfig: "`training_config`: how to train.",
    GrpoConfig: "`training_config.rl_config` with algorithm `grpo`, for method RL.",
    DpoConfig: "`training_config.rl_config` with algorithm `dpo`, for method RL.",
    KtoConfig: "`training_config.rl_config` with algorithm `kto`, for method RL.",
    ExportConfig: "`export_config`: how to store what was trained. [Formats and quantizations](exports.md).",
    WandbConfig: "`wandb_config`: W&B.",
    Notify: "`notify`: webhooks.",
    ExportRequest: "The body of `POST /jobs/{job_id}/exports`, which exports again what a job trained.",
    ResumeRequest: "The body of `POST /jobs/{job_id}/resume`, which may be left out.",
    DatasetUpload: "The body of `POST /datasets`, which begins an upload, or goes on with the same one.",
    UploadFile: "`files`: the files of a dataset.",
    PartLinksRequest: "The body of `POST /datasets/{dataset_id}/part-links`, which answers links to send parts.",
    PartOfFile: "`parts`: the parts to send.",
    CheckRequest: "The body of `POST /datasets/{dataset_id}/check`, which begins a check of a dataset.",
}


def page() -> Page:
    page = Page("Requests", "Every field of every request, with its type, bounds, default and meaning.")
    page.paragraph(
        'JSON, or YAML 1.2 in job files. Unknown fields are refused, and so is a value of another type: `"4"` is not '
        "`4`. A field that is left out has its default; *absent* means that it may be left out and has none, and "
        "`null` says the same. [Rules](error-codes.md#a-request-that-cannot-be-done) across fields come on top."
    )
    links = {model.__name__: f"#{model.__name__.lower()}" for model in SECTIONS}
    links |= {reward.__name__: f"rewards.md#{_type_of(reward)}" for reward in REWARDS}
    for model, place in SECTIONS.items():
        page.heading(model.__name__)
        page.paragraph(place)
        page.table(HEAD, field_rows(model, links))
    return page


def rewards_page() -> Page:
    page = Page("Rewards", "Every reward that GRPO can maximize, with its parameters.")
    page.paragraph(
        "`training_config.rl_config.rewards` lists up to 16. A completion's reward is the sum of theirs, each times "
        "its `weight`. A reward is between 0 and 1. None runs code of yours."
    )
    for reward in REWARDS:
        page.heading(_type_of(reward))
        page.paragraph(f"{sentence(reward.__doc__ or '')} It {COMPARED[reward.compares]}.")
        page.table(HEAD, [row for row in field_rows(reward, {}) if row[0] != code("type")])
    return page


def _type_of(reward: type[rewards.RewardBase]) -> str:
    (name,) = get_args(reward.model_fields["type"].annotation)
    return str(name)
