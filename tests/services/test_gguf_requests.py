"""Whether a request for GGUF can succeed is told at once: by the tools that are there, and by the model's family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemtune import llama_cpp
from gemtune.errors import RequestRefused
from tests.fakes import World

GGUF = {"format": "gguf", "quantization": "q4_k_m"}


def world_with(home: Path, *, tools: bool, **settings: str) -> World:
    folder = home / "llama.cpp"
    folder.mkdir(parents=True)
    if tools:
        (folder / llama_cpp.BUILT).write_text("{}")
    return World(home, {"GEMTUNE_LLAMA_CPP": str(folder), **settings})


def codes(world: World, base_model_id: str) -> dict[str, Any]:
    """code -> hint."""
    try:
        world.submit(training={"base_model_id": base_model_id}, export_config=GGUF)
    except RequestRefused as refused:
        return {problem.code: problem.hint for problem in refused.problems}
    return {}


def test_without_the_tools_it_says_what_to_run(tmp_path: Path) -> None:
    found = codes(world_with(tmp_path, tools=False), "google/gemma-3-270m-it")
    assert set(found) == {"gguf_tools_missing"}
    assert "make llama" in found["gguf_tools_missing"]
    world_with(tmp_path / "other", tools=False).submit(export_config={"format": "merged"})


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("google/gemma-2b-it", True),
        ("google/gemma-1.1-7b-it", True),
        ("google/gemma-2-9b", True),
        ("google/gemma-3-270m-it", True),
        ("google/gemma-3-4b-it", True),
        ("me/my-own-model", True),
        ("google/gemma-3n-E2B-it", False),
        ("google/gemma-7b-it", True),
        ("google/codegemma-7b-it", True),
        ("google/medgemma-4b-it", True),
        ("google/txgemma-9b-chat", True),
        ("google/shieldgemma-9b", True),
        ("me/my-gemma-4b", True),
        ("google/gemma-4-12B-it", True),
        ("google/gemma-4-26B-A4B-it", True),
    ],
)
def test_a_family_is_known_by_its_name(tmp_path: Path, name: str, known: bool) -> None:
    found = codes(world_with(tmp_path, tools=True), name)
    assert set(found) == (set() if known else {"family_without_gguf"})
    assert known or "Gemma 1, Gemma 2, Gemma 3" in found["family_without_gguf"]


@pytest.mark.parametrize(("kind", "known"), [("gemma3_text", True), ("gemma2", True), ("gemma3n_text", False)])
def test_a_family_is_known_by_its_configuration_where_that_is_at_hand(tmp_path: Path, kind: str, known: bool) -> None:
    world = world_with(tmp_path, tools=True)
    config = {"model_type": kind, "max_position_embeddings": 512, "vocab_size": 8}
    world.services.buckets.data.write("models/mine/config.json", json.dumps(config).encode())
    found = codes(world, f"gs://{world.services.buckets.data.bucket}/models/mine")
    assert ("family_without_gguf" in found) is not known


def test_the_image_of_the_cloud_may_be_without() -> None:
    problem = llama_cpp.tools_missing(on_gcp=True)
    assert "GEMTUNE_WITHOUT_GGUF" in str(problem.hint)
