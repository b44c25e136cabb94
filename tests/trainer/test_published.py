"""What leaves for others to see: nothing that the allow-list does not name, in any place that others see."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gemtune.jobs.status import Step
from gemtune.request.spec import ExportConfig, Spec, TrainingConfig
from tests.trainer import hub_server
from tests.trainer.conftest import Bench
from tests.trainer.hub_server import TOKEN, HubServer
from tests.trainer.wandb_server import WandbServer, wandb_server
from trainer import published
from trainer.steps import export

WANDB_KEY = "f" * 24 + "a" * 16  # a fake one, in the form of W&B's
OF_WEBHOOK = "fake-webhook-token"
WEBHOOK = f"https://hooks.example.com/services/T0/{OF_WEBHOOK}"
MACHINE = "home-of-a-fake-user"
REPOSITORY = "me/captain"


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
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
def test_whether_others_see_it_is_decided_for_every_field(
    model: type[Spec | TrainingConfig | ExportConfig], decided: frozenset[str]
) -> None:
    assert decided == set(model.model_fields)


def test_what_is_withheld_or_looks_like_a_token_is_not_published() -> None:
    rl = {"algorithm": "grpo", "rewards": [{"type": "exact_answer", "after": "hf_fakefakefake"}]}
    shown = published.published(spec_of(method="RL", rl_config=rl))
    assert set(shown) == published.OF_SPEC
    assert shown["training_config"]["base_model_id"] == "gemma"
    assert shown["training_config"]["rl_config"]["rewards"][0]["after"] == "[secret]"
    assert "max_steps" not in shown["training_config"]
    assert published.published(spec_of(base_model_id="google/gemma-3-1b-it"))["training_config"]["base_model_id"] == (
        "google/gemma-3-1b-it"
    )


def test_no_place_that_others_see_gets_a_webhook_a_token_or_a_path(
    bench_of: Callable[..., Bench], wandb: WandbServer, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    there = hub.repositories[REPOSITORY]
    events = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/tensorboard/1")
    seen = {
        "W&B": b"\n".join(wandb.received),
        "TensorBoard": b"\n".join(path.read_bytes() for path in Path(events).iterdir()),
        "Hub": b"\n".join([*there.files.values(), *(sha.encode() for sha, _ in there.history)]),
    }
    assert {place: len(content) > 100 for place, content in seen.items()} == dict.fromkeys(seen, True)
    for private in (OF_WEBHOOK, TOKEN, WANDB_KEY, MACHINE):
        assert {place for place, content in seen.items() if private.encode() in content} == set(), private
    (run,) = wandb.runs.values()
    assert run["config"]["training_config"]["value"]["base_model_id"] == "gemma"
