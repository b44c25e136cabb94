"""Acceptance of requests: once per key, atomic, and without leaking secrets."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gemtune.errors import BadIdempotencyKey, JobWasDeleted, KeyReused, RequestRefused
from gemtune.jobs.sources import Source
from gemtune.services.acceptance.create_job import Submission
from tests.fakes import World, reading


def problems(world: World, **fields: Any) -> dict[str, str]:
    with pytest.raises(RequestRefused) as caught:
        world.submit(**fields)
    return {".".join(map(str, problem.loc)): problem.code for problem in caught.value.problems}


def test_an_accepted_request_has_a_record_a_spec_and_a_message(world: World) -> None:
    job = world.services.store.get(world.submit(job_name="Mine"))
    assert (job.status, job.job_name, job.source, job.owner) == ("queued", "Mine", "http", "local")
    spec = json.loads(world.services.buckets.config.read(job.spec_name))
    (message,) = world.messages("requests")
    assert message == spec | {"job_id": job.job_id}


@pytest.mark.parametrize(
    ("dataset", "model"), [("chats", "google/gemma-3-270m-it"), ("X" * 128, "A" * 90 + "/" + "B." * 40)]
)
def test_a_job_id_is_a_valid_label(world: World, dataset: str, model: str) -> None:
    world.services.buckets.data.write(f"processed_datasets/{dataset}/train.jsonl", b"")
    job_id = world.submit(processed_dataset_id=dataset, training={"base_model_id": model})
    assert len(job_id) <= 63
    assert set(job_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")


def test_everything_missing_is_reported_at_once(world: World) -> None:
    reported = problems(
        world,
        processed_dataset_id="nowhere",
        hf_token="secret:gemtune-user-missing",
        training={"method": "RL", "base_model_id": "/nowhere", "provider": "unsloth"},
    )
    assert reported == {
        "processed_dataset_id": "dataset_not_found",
        "training_config.base_model_id": "bad_base_model" if world.services.settings.on_gcp else "base_model_not_found",
        "training_config.provider": "unsloth_missing",
        "hf_token": "secret_not_found",
    }


def test_wandb_needs_a_key_of_the_request_or_of_the_service(tmp_path: Path) -> None:
    wandb_config = {"project": "boats"}
    assert problems(World(tmp_path / "none"), wandb_config=wandb_config) == {"wandb_config.api_key": "missing_field"}
    World(tmp_path / "own").submit(wandb_config=wandb_config | {"api_key": "a fake key"})
    World(tmp_path / "offline", {"WANDB_MODE": "offline"}).submit(wandb_config=wandb_config)
    service = World(tmp_path / "service", {"GEMTUNE_WANDB_API_KEY_SECRET": "gemtune-user-wandb"})
    service.services.secrets.create("gemtune-user-wandb", "a fake key", ttl=None)
    job = service.services.store.get(service.submit(wandb_config=wandb_config))
    assert service.services.advance.secret(job, "wandb_api_key") == "a fake key"


def test_a_model_in_a_bucket_is_found_at_its_own_path_only(world: World) -> None:
    world.services.buckets.data.write("models/tiny/config.json", b'{"model_type": "gemma3_text"}')
    bucket = world.services.buckets.data.bucket
    world.submit(training={"base_model_id": f"gs://{bucket}/models/tiny"})
    for elsewhere in (f"gs://{bucket}/models/other", "gs://foreign-bucket/models/tiny", f"gs://{bucket}/../secrets"):
        assert problems(world, training={"base_model_id": elsewhere})


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (b"[" * 3000, "bad_base_model"),
        (b'{"model_type": "llama\\ud800"}', "bad_base_model"),
        (b'{"model_type": NaN}', "bad_base_model"),
        (b"[]", "bad_base_model"),
        (b"\xff", "bad_base_model"),
        (b"{", "bad_base_model"),
        (b" " * (1024 * 1024 + 1), "bad_base_model"),
        (b'{"model_type": "gemma3_text", "num_hidden_layers": 1000000000000}', "bad_base_model"),
        (b'{"model_type": "gemma3", "text_config": {"vocab_size": 1e300}}', "bad_base_model"),
        (b'{"model_type": ["gemma"]}', "not_a_gemma"),
        (b"{}", "not_a_gemma"),
    ],
)
def test_a_broken_config_of_a_model_is_a_problem_of_the_request(tmp_path: Path, config: bytes, code: str) -> None:
    world = World(tmp_path / "home")  # where a base model may also be a folder
    buckets, folder = world.services.buckets, tmp_path / "model"
    buckets.data.write("models/odd/config.json", config)
    folder.mkdir()
    (folder / "config.json").write_bytes(config)
    for place in (f"gs://{buckets.data.bucket}/models/odd", str(folder)):
        assert problems(world, training={"base_model_id": place}) == {"training_config.base_model_id": code}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "this folder does not exist"),
        ("file", "this is a file, not a folder"),
        (["adapter_config.json"], "this is the folder of an adapter, not of a base model"),
        ([], "there is no config.json in this folder"),
    ],
    ids=["nothing", "file", "adapter", "empty"],
)
def test_a_local_folder_without_a_base_model_is_refused_with_what_it_is(
    tmp_path: Path, files: list[str] | str | None, message: str
) -> None:
    world, place = World(tmp_path / "home"), tmp_path / "model"
    if isinstance(files, str):
        place.write_text("")
    elif files is not None:
        place.mkdir()
        for name in files:
            (place / name).write_text("{}")
    with pytest.raises(RequestRefused) as caught:
        world.submit(training={"base_model_id": str(place)})
    (problem,) = caught.value.problems
    assert (problem.loc[-1], message in problem.msg) == ("base_model_id", True), problem.msg


def test_a_pipe_in_place_of_a_config_is_refused_without_waiting(tmp_path: Path) -> None:
    world = World(tmp_path / "home")  # objects of a bucket are no files
    os.mkfifo(tmp_path / "config.json")
    models = Path(world.services.buckets.data.uri("models"))
    models.mkdir()
    os.mkfifo(models / "config.json")
    place = f"gs://{world.services.buckets.data.bucket}/models"
    assert problems(world, training={"base_model_id": place}) == {
        "training_config.base_model_id": "base_model_not_found"
    }
    assert problems(world, training={"base_model_id": str(tmp_path)}) == {
        "training_config.base_model_id": "bad_base_model"
    }


def test_a_link_out_of_the_bucket_is_a_problem_of_the_field_that_names_it(tmp_path: Path) -> None:
    world = World(tmp_path / "home")  # objects of a bucket are no links
    data = Path(world.services.buckets.data.uri("processed_datasets")).parent
    (tmp_path / "train.jsonl").write_text("{}\n")
    (tmp_path / "config.json").write_text('{"model_type": "gemma3_text"}')
    (data / "processed_datasets" / "linked").symlink_to(tmp_path)
    (data / "models").symlink_to(tmp_path)
    model = f"gs://{world.services.buckets.data.bucket}/models"
    assert problems(world, processed_dataset_id="linked", training={"base_model_id": model}) == {
        "processed_dataset_id": "bad_dataset",
        "training_config.base_model_id": "bad_base_model",
    }
    with pytest.raises(RequestRefused, match="the link 'processed_datasets/linked' in data leads out of its bucket"):
        world.submit(processed_dataset_id="linked")


def test_of_fifty_requests_with_one_key_one_becomes_a_job_with_its_own_token(world: World) -> None:
    def attempt(number: int) -> str:
        name = "another" if number % 5 == 0 else "same"
        try:
            return world.submit("once", job_name=name, hf_token=f"hf_fakefakefake{number:02}")
        except KeyReused:
            return "reused"

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(attempt, range(50)))
    (job_id,) = set(answers) - {"reused"}
    job = world.services.store.get(job_id)
    assert answers.count("reused") == (40 if job.job_name == "another" else 10)
    assert world.stored_secrets() == list(job.secret_names.values())
    assert world.stored_specs() == [job.spec_name]


def test_a_repeated_key_returns_the_job_even_when_its_dataset_is_gone(world: World) -> None:
    first = world.submit("k")
    world.services.buckets.data.delete("processed_datasets/chats/train.jsonl")
    assert world.submit("k") == first
    with pytest.raises(KeyReused):
        world.submit("k", job_name="another")


def test_a_repeated_request_is_published_again_until_its_job_is_launched(world: World) -> None:
    """Publish it again, as the first message may be lost."""
    job_id = world.submit("k")
    spec = json.loads(world.services.buckets.config.read(world.services.store.get(job_id).spec_name))
    world.messages("requests")
    assert world.submit("k") == job_id
    assert world.messages("requests") == [spec | {"job_id": job_id}]
    world.services.dispatch.launch(job_id)
    assert world.submit("k") == job_id
    assert world.messages("requests") == []


@pytest.mark.parametrize("key", ["", "x" * 1025, "a\nb", "hf_fakefakefake"])
def test_an_invalid_key_is_refused(world: World, key: str) -> None:
    with pytest.raises(BadIdempotencyKey):
        world.submit(key)


def test_the_key_of_a_deleted_job_creates_no_job(world: World) -> None:
    job_id = world.submit("k")
    world.services.cancel(job_id)
    world.services.delete(job_id)
    with pytest.raises(JobWasDeleted):
        world.submit("k")
    assert world.stored_specs() == []


def test_after_a_failed_publish_the_sweep_publishes_the_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = world.services.bus
    with monkeypatch.context() as broken:
        broken.setattr(type(bus), "publish", lambda *args, **kwargs: 1 / 0)
        job_id = world.submit()
    assert world.messages("requests") == []
    world.services.sweep()
    assert world.messages("requests") == []  # too early: a request may still be about to publish
    world.clock.advance(minutes=1)
    world.services.sweep()
    (message,) = world.messages("requests")
    assert message["job_id"] == job_id


@pytest.mark.parametrize("spec", [None, b"{", b"[]", b'{"curriculum": ["easy"]}'])
def test_a_job_with_an_unreadable_spec_is_still_launched(world: World, spec: bytes | None) -> None:
    job_id = world.submit()
    config, name = world.services.buckets.config, world.services.store.get(job_id).spec_name
    config.delete(name) if spec is None else config.write(name, spec)
    world.messages("requests")
    world.clock.advance(minutes=2)
    world.services.sweep()
    assert [message["job_id"] for message in world.messages("requests")] == [job_id]


def test_a_crash_before_the_record_leaves_orphans_that_the_sweep_removes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.clock.time = datetime.now(UTC)  # objects have the time of the platform's clock
    with monkeypatch.context() as broken:
        broken.setattr(type(world.services.store), "create", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            world.submit(hf_token="hf_fakefakefake")
    job_id = world.submit(hf_token="hf_fakefakefake")
    assert len(world.stored_secrets()) == len(world.stored_specs()) == 2
    world.clock.advance(hours=2)
    world.services.sweep()
    job = world.services.store.get(job_id)
    assert world.stored_secrets() == list(job.secret_names.values())
    assert world.stored_specs() == [job.spec_name]


def test_a_referenced_secret_is_stored_by_name_and_not_deleted_with_the_job(world: World) -> None:
    world.services.secrets.create("gemtune-user-mine", "hf_fakefakefake", ttl=None)
    job_id = world.submit(hf_token="secret:gemtune-user-mine")
    assert world.services.store.get(job_id).secret_names == {"hf_token": "gemtune-user-mine"}
    world.services.cancel(job_id)
    world.services.fan_out(job_id)
    world.services.delete(job_id)
    assert world.stored_secrets() == ["gemtune-user-mine"]


def test_sources_do_not_share_keys(world: World) -> None:
    over_http = world.submit("k")
    by_file = world.services.submit(Submission(reading(), Source.UPLOAD, "local", "k")).job_id
    assert over_http != by_file


def test_a_key_too_long_for_an_attribute_of_a_message_is_refused(world: World) -> None:
    with pytest.raises(BadIdempotencyKey):
        world.submit("ü" * 513)  # 1026 bytes
    assert world.submit("ü" * 512)
