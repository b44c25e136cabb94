"""Publication: nothing outside the allow-list is published anywhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gemtune.jobs.status import Step
from gemtune.request.spec import ExportConfig, Spec
from gemtune.request.training_config import TrainingConfig
from tests.trainer import hub_server
from tests.trainer.conftest import Bench
from tests.trainer.hub_server import TOKEN, HubServer
from tests.trainer.wandb_server import WandbServer, wandb_server
from trainer import published
from trainer.steps import export

WANDB_KEY = "f" * 24 + "a" * 16  # fake, in the form of W&B's keys
WEBHOOK_TOKEN = "fake-webhook-token"
WEBHOOK = f"https://hooks.example.com/services/T0/{WEBHOOK_TOKEN}"
MACHINE = "home-of-a-fake-user"
REPOSITORY = "me/captain"


@pytest.fixture
def wandb_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server.serving(HubServer()) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        yield server


def spec_of(**training: object) -> Spec:
    return Spec.model_validate(
        {
            "processed_dataset_id": "chats",
            "training_config": {"base_model_id": f"/{MACHINE}/gemma", **training},
            "notify": {"webhook_url": WEBHOOK},
            "wandb_config": {"project": "boats"},
        }
    )


@pytest.mark.parametrize(
    ("model", "decided"),
    [
        (Spec, published.OF_SPEC | published.WITHHELD),
        (TrainingConfig, published.OF_TRAINING),
        (ExportConfig, published.OF_EXPORT),
    ],
)
def test_every_field_is_either_published_or_withheld(
    model: type[Spec | TrainingConfig | ExportConfig], decided: frozenset[str]
) -> None:
    undecided = sorted(set(model.model_fields) - decided)
    assert not undecided, f"publish these fields of {model.__name__} or withhold them: {', '.join(undecided)}"
    assert decided == set(model.model_fields)


def test_ignored_fields_of_rows_are_published() -> None:
    spec = spec_of().model_copy(update={"dataset_columns": {"messages": "conv", "label": None}})
    assert published.public_fields(spec)["dataset_columns"] == {"messages": "conv", "label": None}


def test_withheld_fields_and_tokens_are_not_published() -> None:
    rl = {"algorithm": "grpo", "rewards": [{"type": "exact_answer", "after": "hf_fakefakefake"}]}
    shown = published.public_fields(spec_of(method="RL", rl_config=rl))
    assert set(shown) == published.OF_SPEC - {"dataset_format", "dataset_columns"}
    assert shown["training_config"]["base_model_id"] == "gemma"
    assert shown["training_config"]["rl_config"]["rewards"][0]["after"] == "[secret]"
    assert "max_steps" not in shown["training_config"]
    assert published.public_fields(spec_of(base_model_id="google/gemma-3-1b-it"))["training_config"][
        "base_model_id"
    ] == ("google/gemma-3-1b-it")


def test_no_published_place_contains_a_webhook_a_token_or_a_path(
    bench_of: Callable[..., Bench],
    wandb_state: WandbServer,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = bench_of(max_steps=2)
    bench.base = Path(shutil.copytree(bench.base, tmp_path / MACHINE / "gemma"))
    bench.training["base_model_id"] = str(bench.base)
    bench.fields |= {
        "notify": {"webhook_url": WEBHOOK},
        "wandb_config": {"project": "boats", "api_key": WANDB_KEY},
        "hf_token": TOKEN,
    }
    bench.export = {"destination": "hfhub", "hf_repo_id": REPOSITORY}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    bench.run(Step.PREPARE)
    bench.run(Step.TRAIN)
    context = bench.context(Step.EXPORT)
    export.run(replace(context, secret=lambda role: {"hf_token": TOKEN}.get(role)))
    repository = hub.repositories[REPOSITORY]
    events = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/tensorboard/1")
    published_content = {
        "W&B": b"\n".join(wandb_state.received),
        "TensorBoard": b"\n".join(path.read_bytes() for path in Path(events).iterdir()),
        "Hub": b"\n".join([*repository.files.values(), *(sha.encode() for sha, _ in repository.history)]),
    }
    assert all(len(content) > 100 for content in published_content.values())
    for private in (WEBHOOK_TOKEN, TOKEN, WANDB_KEY, MACHINE):
        assert {place for place, content in published_content.items() if private.encode() in content} == set(), private
    (run,) = wandb_state.runs.values()
    assert run["config"]["training_config"]["value"]["base_model_id"] == "gemma"
