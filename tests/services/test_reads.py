"""Reads of buckets by a request: each name and each listing at most once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemtune import llama_cpp
from gemtune.jobs.sources import Source
from gemtune.jobs.status import Step
from gemtune.ports import Buckets, Objects
from gemtune.request.parsing import read_export
from gemtune.services.acceptance.create_job import Submission
from tests.fakes import World
from tests.services.test_running import Running

READS = ("read", "read_range", "stat", "generation", "list", "fetch", "fetch_folder")


class CountingObjects:
    """Bucket that counts its reads by name."""

    def __init__(self, objects: Objects, reads: Counter[str]):
        self._objects, self._reads = objects, reads

    def __getattr__(self, method: str) -> Any:
        attribute = getattr(self._objects, method)
        return self._counted(method, attribute) if method in READS else attribute

    def _counted(self, method: str, method_of_bucket: Callable[..., Any]) -> Callable[..., Any]:
        def call(name: str, *more: Any, **limits: Any) -> Any:
            what = "content of" if method.startswith(("read", "fetch")) else method
            self._reads[f"{what} {self._objects.bucket}/{name}"] += 1
            return method_of_bucket(name, *more, **limits)

        return call


@pytest.fixture
def reads(world: World) -> Counter[str]:
    """Count all reads of buckets from now on."""
    counted: Counter[str] = Counter()
    four = world.services.buckets
    buckets = Buckets(*(CountingObjects(each, counted) for each in (four.config, four.data, four.uploads, four.export)))
    world.services.__dict__["buckets"] = buckets
    return counted


@pytest.fixture(params=[("local",), ("l4", "rtx-pro-6000")], ids=["workstation", "cloud"])
def _machines(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> None:
    """Set the machines; only in the cloud the size of the model is needed.

    Both deployments write GGUF.
    """
    (tmp_path / llama_cpp.BUILT).touch()
    world.services.settings = replace(world.services.settings, machines=request.param, llama_cpp=tmp_path)


@pytest.mark.usefixtures("_machines")
@pytest.mark.parametrize("export", [{"format": "gguf"}, {"format": "merged"}])
@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("cap", [{}, {"max_hours": 9}])
def test_a_request_reads_each_object_once(
    world: World, reads: Counter[str], export: Any, copied: bool, cap: dict[str, Any]
) -> None:
    """Try a model in a bucket, and one that prepare has copied from the Hub."""
    buckets = world.services.buckets
    objects, folder = (buckets.export, "models/me--own/abc") if copied else (buckets.data, "models/mine")
    objects.write(
        f"{folder}/config.json",
        b'{"model_type": "gemma3", "text_config": {}, "vision_config": {}, "dtype": "bfloat16"}',
    )
    objects.write(f"{folder}/model.safetensors", b"x" * 1000)
    model = "me/own" if copied else f"gs://{objects.bucket}/{folder}"
    modality = "text" if export["format"] == "gguf" else "vision"
    world.submit(training={"base_model_id": model}, export_config=export, modality=modality, **cap)
    assert {name: count for name, count in reads.items() if count > 1} == {}
    assert f"content of {objects.bucket}/{folder}/config.json" in reads
    assert not any("specs/" in name for name in reads)


def test_a_request_reads_nothing_that_it_does_not_need(world: World, reads: Counter[str]) -> None:
    world.submit()
    assert reads == {f"list {world.services.buckets.data.bucket}/processed_datasets/chats/": 1}


def test_an_export_again_reads_only_the_spec_of_its_parent(world: World, reads: Counter[str]) -> None:
    job_id = trained(world)
    reads.clear()
    submission = Submission(read_export('{"export_config": {"format": "merged"}}'), Source.HTTP, "local")
    world.services.export_again(job_id, submission)
    assert list(reads.values()) == [1]
    assert "specs/" in next(iter(reads))


def trained(world: World) -> str:
    running = Running(world)
    for step in (Step.PREPARE, Step.TRAIN):
        running.services.advance.finish(running.job_id, running.begin(step))
    world.services.cancel(running.job_id)
    return running.job_id


def test_the_algorithm_of_rows_costs_one_more_read(world: World, reads: Counter[str]) -> None:
    world.services.buckets.data.write("processed_datasets/chats/train.jsonl", b'{"prompt": "a", "answer": "b"}\n')
    world.submit(training={"method": "RL"})
    folder = f"{world.services.buckets.data.bucket}/processed_datasets/chats/"
    assert reads == {f"list {folder}": 1, f"content of {folder}train.jsonl": 1}
