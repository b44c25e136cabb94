"""Facts about the deployment and its stores, for checking a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gemtune.errors import Problem
from gemtune.families.size import ModelSize
from gemtune.machines.cap_policy import NO_CAPS, CapPolicy
from gemtune.machines.cost import LIST_PRICES, Prices
from gemtune.request.base_model import ModelFiles


@dataclass(frozen=True, slots=True)
class Deployment:
    """Facts that are the same for all requests of a deployment.

    machines: names of its machines for training, in order of preference.
    local_folders: whether a base model may be a folder of this machine.
    webhooks_to_loopback: whether a webhook may go to this machine.
    has_hf_token: whether the service has a Hub token for jobs without one.
    has_unsloth: whether provider unsloth is installed.
    may_have_gpu: whether training may have a GPU; False if it surely has none.
    has_timm: whether timm and torchvision are installed, for models that need them.
    wandb_needs_key: whether a request with wandb_config has to bring its own key.
    caps: default and highest caps of jobs. prices: of its machines.
    """

    machines: Sequence[str]
    local_folders: bool
    webhooks_to_loopback: bool
    has_hf_token: bool
    has_unsloth: bool
    may_have_gpu: bool
    has_timm: bool
    wandb_needs_key: bool
    caps: CapPolicy = NO_CAPS
    prices: Prices = LIST_PRICES


@dataclass(frozen=True, slots=True)
class DatasetFiles:
    """Files of a dataset.

    place: URI of the folder where its files are, or where they belong.
    problem: why the files cannot be looked at, if so.
    columns: names of the train split's columns. None if the request does not depend on them, or if the first bytes do
    not tell them.
    train_files: names and sizes of the train split's files.
    """

    place: str
    exists: bool
    problem: Problem | None = None
    columns: frozenset[str] | None = None
    train_files: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts that are known when a request is checked.

    None means not looked at.
    base_model: files in the base model's folder, or in the copy of a Hub model whose name does not identify it.
    base_is_trained: whether the base model is what another job trained, with method Full.
    size: size of the base model, if it is known and a machine has to be chosen.
    missing_secrets: roles whose secret does not exist.
    gguf_problem: why this deployment cannot write GGUF, if the request asks for it.
    """

    deployment: Deployment
    dataset: DatasetFiles | None = None
    base_model: ModelFiles | None = None
    base_is_trained: bool = False
    size: ModelSize | None = None
    missing_secrets: frozenset[str] = frozenset()
    gguf_problem: Problem | None = None
