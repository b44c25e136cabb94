"""Base models at hand and published sizes, with the machines they fit on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gemtune.families import FAMILIES
from gemtune.machines.memory import memory_for_training
from gemtune.request.placement import load_of
from gemtune.request.training_config import TrainingConfig
from gemtune.services.planning.base_models import BaseModels
from gemtune.services.planning.planner import Workstation
from tests.fakes import World

CONFIG = {
    "model_type": "gemma3_text",
    "hidden_size": 640,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "intermediate_size": 2048,
    "vocab_size": 262_144,
    "dtype": "bfloat16",
}


def base_models(world: World, memory_gib: float | None = 8.0, *folders: Path) -> BaseModels:
    services = world.services
    return BaseModels(services.buckets, services.settings.machines, Workstation(2, memory_gib), folders)


def test_published_sizes_are_those_of_all_families(world: World) -> None:
    published = base_models(world).known()
    assert [model.name for model in published] == [name for family in FAMILIES for name in family.sizes]
    assert {model.name for model in published if model.reads_pictures} >= {"gemma-3-4b", "gemma-4-e2b"}


def test_machines_are_those_whose_memory_suffices(world: World) -> None:
    for model in base_models(world, 8.0).known():
        for need in model.needs:
            load = load_of(TrainingConfig(base_model_id=f"google/{model.name}", method=need.method), "text")
            assert need.need == memory_for_training(model.size, load)
            if not world.services.settings.on_gcp:
                assert (need.machine == "local") == (need.need.host_without_gpu <= 8.0)
    by_name = {model.name: {need.method: need.machine for need in model.needs} for model in base_models(world).known()}
    first = "l4" if world.services.settings.on_gcp else "local"
    assert by_name["gemma-3-270m"]["LoRA"] == first
    assert by_name["gemma-3-27b"]["Full"] is None


def test_a_workstation_of_unknown_memory_tries_everything(tmp_path: Path) -> None:
    published = base_models(World(tmp_path), None).known()
    assert {need.machine for model in published for need in model.needs} == {"local"}


def test_models_in_buckets_are_at_hand(world: World) -> None:
    buckets = world.services.buckets
    places = {
        "google/gemma-3-270m-it": (buckets.export, "models/google--gemma-3-270m-it/0abc"),
        f"gs://{buckets.data.bucket}/models/mine": (buckets.data, "models/mine"),
        f"gs://{buckets.uploads.bucket}/models/theirs": (buckets.uploads, "models/theirs"),
    }
    for objects, folder in places.values():
        objects.write(f"{folder}/config.json", json.dumps(CONFIG).encode())
        objects.write(f"{folder}/model.safetensors", b"x" * 1000)
    buckets.data.write("models/notes/readme.txt", b"no model")
    at_hand = base_models(world).at_hand()
    assert {model.base_model_id for model in at_hand} == set(places)
    assert {(model.family, model.bytes, model.problem, len(model.needs)) for model in at_hand} == {
        ("Gemma 3", 1000, None, 4)
    }


def write_model(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    return folder


@pytest.fixture
def workstation(tmp_path: Path) -> World:
    return World(tmp_path / "home")


def test_models_in_folders_of_this_machine_are_at_hand(workstation: World, tmp_path: Path) -> None:
    built = write_model(tmp_path / "cache" / "gemma-3-270m")
    snapshot = write_model(tmp_path / "hub" / "models--google--gemma-3-270m" / "snapshots" / "0abc")
    other = write_model(tmp_path / "cache" / "gemma-or-not", model_type="llama")
    adapter = write_model(tmp_path / "cache" / "gemma-adapter")
    (adapter / "adapter_config.json").write_text("{}")
    (tmp_path / "hub" / "models--google--empty" / "snapshots" / "1").mkdir(parents=True)
    broken = write_model(tmp_path / "cache" / "gemma-broken")
    (broken / "config.json").write_text("{")
    folders = (tmp_path / "cache", tmp_path / "hub", tmp_path / "missing")
    at_hand = {model.base_model_id: model for model in base_models(workstation, 8.0, *folders).at_hand()}
    assert set(at_hand) == {str(built), str(snapshot), str(other), str(broken)}
    assert "llama" in str(at_hand[str(other)].problem)
    assert "JSON" in str(at_hand[str(broken)].problem)
    assert at_hand[str(other)].needs == at_hand[str(broken)].needs == ()
    requests = [replace(at_hand[str(path)], base_model_id="") for path in (built, snapshot)]
    assert requests[0] == requests[1]


def test_of_several_revisions_of_a_copy_the_last_one_counts(world: World) -> None:
    export = world.services.buckets.export
    for revision, size in (("bbbb", 10), ("aaaa", 20)):
        folder = f"models/google--gemma-3-270m-it/{revision}"
        export.write(f"{folder}/model.safetensors", b"x" * size)
        export.write(f"{folder}/config.json", json.dumps(CONFIG).encode())
    (model,) = base_models(world).at_hand()
    assert (model.base_model_id, model.bytes) == ("google/gemma-3-270m-it", 20)
