"""The facts that a request is checked against: what the deployment offers, and what lies in its stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gemtune.errors import Problem
from gemtune.families.size import ModelSize
from gemtune.request.base_model import ModelFiles


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is the same for all requests of a deployment.

    machines: what can train there. local_folders: whether a base model may be a folder of this machine.
    webhooks_to_loopback: whether a webhook may be on this machine. has_hf_token: whether jobs without a Hub token use
    the service's. has_unsloth: whether trainings by unsloth have an environment to run in. wandb_needs_key: whether a
    request that wants W&B has to bring a key of its own.
    """

    machines: Sequence[str]
    local_folders: bool
    webhooks_to_loopback: bool
    has_hf_token: bool
    has_unsloth: bool
    wandb_needs_key: bool


@dataclass(frozen=True, slots=True)
class DatasetFiles:
    """place: where its files are, or belong. problem: why they cannot be looked at, and what to do. columns: those of
    its train split, where a request leaves the algorithm to the rows; None when the first bytes do not say them."""

    place: str
    exists: bool
    problem: Problem | None = None
    columns: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known when a request is checked; None is what was not looked at.

    base_model: of a folder, or of a copy of a Hub model whose name does not say what it is. size: of the base model,
    where a machine has to be chosen and it is known. missing_secrets: roles whose secret does not exist. no_gguf: why
    this deployment cannot write GGUF, when it cannot and a request asks for it.
    """

    deployment: Deployment
    dataset: DatasetFiles | None = None
    base_model: ModelFiles | None = None
    size: ModelSize | None = None
    missing_secrets: frozenset[str] = frozenset()
    gguf_problem: Problem | None = None
