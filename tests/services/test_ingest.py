"""Job files: one job per content, and an answer next to the file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gemtune.errors import CannotStore
from tests.fakes import World, request


def drop(world: World, name: str, content: Any, bucket: str = "uploads") -> None:
    """Write an object and deliver its event."""
    objects = getattr(world.services.buckets, bucket)
    objects.write(name, content if isinstance(content, bytes) else json.dumps(content).encode())
    world.services.ingest(objects.bucket, name, objects.generation(name) or "", owner="local")


def answer(world: World, name: str, bucket: str = "uploads") -> dict[str, Any]:
    objects = getattr(world.services.buckets, bucket)
    content: dict[str, Any] = json.loads(objects.read(name))
    return content


def names(world: World) -> list[str]:
    return [stat.name for stat in world.services.buckets.uploads.list("")]


@pytest.mark.parametrize("name", ["x.job.json", "x.job.yaml", "deep/er/x.job.yaml", "ünï code.job.yaml"])
def test_a_job_file_becomes_a_job(world: World, name: str) -> None:
    drop(world, name, request(job_name="Dropped"))
    accepted = answer(world, name.rpartition(".job.")[0] + ".accepted.json")
    job = world.services.store.get(accepted["job_id"])
    assert accepted == {"file": name, "job_id": job.job_id}
    assert (job.source, job.job_name) == ("upload", "Dropped")


@pytest.mark.parametrize("name", ["x.yaml", "x.yml", "deep/x.json", "x.job.yml", "x.jobs.json"])
def test_a_request_with_another_name_is_answered(world: World, name: str) -> None:
    drop(world, name, request())
    rejected = answer(world, name.rpartition(".")[0] + ".rejected.json")
    (problem,) = rejected["errors"]
    assert (rejected["file"], problem["code"]) == (name, "not_a_job_file")
    assert problem["hint"].startswith("upload it as x")
    assert list(world.services.store.unfinished()) == []


@pytest.mark.parametrize("name", ["models/a/config.json", "x.accepted.json", "x.rejected.json", "x.txt", "large.json"])
def test_files_that_are_no_requests_are_left_alone(world: World, name: str) -> None:
    content = {"model_type": "gemma3", "x": "y" * (2 * 2**20 if name == "large.json" else 1)}
    drop(world, name, content if name.endswith("g.json") or "large" in name else request())
    assert names(world) == [name]


def test_the_longest_key_of_a_job_file_is_the_end_of_its_name_and_generation(world: World) -> None:
    """Let the limit of 1,024 bytes fall between two characters, and into one."""
    uploads, lengths = world.services.buckets.uploads, set()
    for letters in (200, 201):
        name = f"{'/'.join(['ä' * 100] * 4)}/{'x' * letters}.job.json"
        drop(world, name, request())
        accepted = answer(world, name.removesuffix(".job.json") + ".accepted.json")
        key = world.services.store.get(accepted["job_id"]).idempotency_key or ""
        assert f"{uploads.bucket}/{name}#{uploads.generation(name)}".endswith(key)
        lengths.add(len(key.encode()))
    assert lengths == {1023, 1024}


def test_a_yaml_file_is_read_as_version_1_2(world: World) -> None:
    text = b"""
processed_dataset_id: chats
training_config:
  base_model_id: google/gemma-3-270m-it
  eval_strategy: no
  learning_rate: 5e-4
"""
    drop(world, "x.job.yaml", text)
    job = world.services.store.get(answer(world, "x.accepted.json")["job_id"])
    spec = json.loads(world.services.buckets.config.read(job.spec_name))
    assert spec["training_config"]["eval_strategy"] == "no"
    assert spec["training_config"]["learning_rate"] == 5e-4


def test_a_job_file_in_the_folder_of_a_dataset_need_not_name_it(world: World) -> None:
    body = request()
    del body["processed_dataset_id"]
    drop(world, "processed_datasets/chats/x.job.yaml", body, "data")
    job_id = answer(world, "processed_datasets/chats/x.accepted.json", "data")["job_id"]
    assert world.services.store.get(job_id).processed_dataset_id == "chats"
    drop(world, "processed_datasets/chats/y.job.yaml", request(processed_dataset_id="other"), "data")
    (error,) = answer(world, "processed_datasets/chats/y.rejected.json", "data")["errors"]
    assert error["code"] == "other_dataset"


def test_a_rejection_names_the_file_and_everything_that_is_wrong(world: World) -> None:
    drop(world, "deep/x.job.json", {"processed_dataset_id": "nowhere", "colour": "red"})
    rejected = answer(world, "deep/x.rejected.json")
    assert (set(rejected), rejected["file"]) == ({"file", "errors"}, "deep/x.job.json")
    assert {(".".join(error["loc"]), error["code"]) for error in rejected["errors"]} == {
        ("processed_dataset_id", "dataset_not_found"),
        ("training_config", "missing_field"),
        ("colour", "unknown_field"),
    }


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"\xff\xfe", "not_text"),
        (b"[1]", "not_an_object"),
        (b" " * (1024 * 1024 + 1), "too_large"),
        (json.dumps(request(hf_token="hf_fakefakefake")).encode(), "secret_in_the_open"),
        (json.dumps(request(processed_dataset_id="nowhere")).encode(), "dataset_not_found"),
    ],
)
def test_the_answer_to_a_broken_file_names_the_problem(world: World, content: bytes, code: str) -> None:
    drop(world, "x.job.json", content)
    assert [error["code"] for error in answer(world, "x.rejected.json")["errors"]] == [code]
    assert b"hf_fake" not in world.services.buckets.uploads.read("x.rejected.json")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"a: [", "not_yaml"),
        (b"a: 1\na: 2\n", "repeated_key"),
        (b"\ta: 1", "not_yaml"),
        (b"a: &x 1\nb: *x\n", "yaml_alias"),
        (b"%YAML 1.3\n---\na: 1\n", "yaml_directive"),
        (b"? {a: b}\n: c\n", "not_yaml"),
        (b"just text", "not_an_object"),
        (b"a: !!python/object:os.system x", "yaml_tag"),
    ],
)
def test_the_answer_to_broken_yaml_names_the_problem(world: World, content: bytes, code: str) -> None:
    drop(world, "x.job.yaml", content)
    assert [error["code"] for error in answer(world, "x.rejected.json")["errors"]] == [code]


@pytest.mark.parametrize(("kind", "most"), [("JSON", 1024 * 1024), ("YAML", 64 * 1024)])
def test_the_answer_to_a_large_file_names_the_limit_of_its_kind(world: World, kind: str, most: int) -> None:
    drop(world, f"x.job.{kind.lower()}", b" " * (most + 1))
    (error,) = answer(world, "x.rejected.json")["errors"]
    assert (error["code"], error["msg"]) == ("too_large", f"a job file in {kind} may have at most {most} bytes")


def test_a_corrected_file_removes_the_rejection(world: World) -> None:
    drop(world, "x.job.json", b"{")
    drop(world, "x.job.json", request())
    assert names(world) == ["x.accepted.json", "x.job.json"]


def test_a_repeated_event_creates_no_second_job(world: World) -> None:
    drop(world, "x.job.json", request())
    generation = world.services.buckets.uploads.generation("x.job.json") or ""
    for _ in range(3):
        world.services.ingest(world.services.buckets.uploads.bucket, "x.job.json", generation, owner="local")
    assert len(list(world.services.store.unfinished())) == 1


def test_an_event_for_replaced_content_is_ignored(world: World) -> None:
    uploads = world.services.buckets.uploads
    uploads.write("x.job.json", json.dumps(request()).encode())
    old = uploads.generation("x.job.json") or ""
    uploads.write("x.job.json", json.dumps(request(job_name="new")).encode())
    world.services.ingest(world.services.buckets.uploads.bucket, "x.job.json", old, owner="local")
    assert names(world) == ["x.job.json"]


@pytest.mark.parametrize(
    ("bucket", "name"),
    [
        ("uploads", "x.json"),
        ("uploads", "x.accepted.json"),
        ("uploads", "x.rejected.json"),
        ("uploads", ".job.json"),
        ("data", "x.job.json"),
        ("data", "processed_datasets/chats/deep/x.job.json"),
        ("export", "x.job.json"),
    ],
)
def test_other_objects_are_ignored(world: World, bucket: str, name: str) -> None:
    objects = getattr(world.services.buckets, bucket)
    before = {stat.name for stat in objects.list("")}
    drop(world, name, b"{", bucket)
    assert {stat.name for stat in objects.list("")} == before | {name}


def test_a_file_replaced_while_it_is_read_is_handled_by_the_next_event(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = world.services.buckets.uploads
    uploads.write("x.job.json", json.dumps(request(job_name="one")).encode())
    first = uploads.generation("x.job.json")
    read = type(uploads).read

    def replaced_before(self: Any, name: str, **limits: int) -> bytes:
        if name == "x.job.json" and self.generation(name) == first:
            self.write(name, json.dumps(request(job_name="two")).encode())
        return read(self, name, **limits)

    with monkeypatch.context() as racing:
        racing.setattr(type(uploads), "read", replaced_before)
        world.services.ingest(uploads.bucket, "x.job.json", first or "", owner="local")
    assert list(world.services.store.unfinished()) == []
    world.services.ingest(uploads.bucket, "x.job.json", uploads.generation("x.job.json") or "", owner="local")
    (job,) = world.services.store.unfinished()
    assert job.job_name == "two"


@pytest.mark.parametrize("name", ["a//b.job.json", "a/../b.job.json", "x" * 246 + ".job.json", "a\nb.job.json"])
def test_a_name_that_cannot_have_an_answer_is_ignored(world: World, name: str) -> None:
    world.services.ingest(world.services.buckets.uploads.bucket, name, "1", owner="local")
    assert list(world.services.store.unfinished()) == []


def test_a_job_file_that_cannot_be_stored_is_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise CannotStore("the config bucket", "No space left on device")

    monkeypatch.setattr(type(world.services.submit), "__call__", refuse)
    drop(world, "x.job.json", request())
    (problem,) = answer(world, "x.rejected.json")["errors"]
    assert problem["code"] == "cannot_store"
    assert "No space left" in problem["msg"]
