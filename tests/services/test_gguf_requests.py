"""Requests for GGUF: refused at once without the tools or for some families."""

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
    """Return code -> hint of all problems with the request."""
    try:
        world.submit(training={"base_model_id": base_model_id}, export_config=GGUF)
    except RequestRefused as refused:
        return {problem.code: problem.hint for problem in refused.problems}
    return {}


def test_the_hint_without_the_tools_names_the_command_to_run(tmp_path: Path) -> None:
    hints = codes(world_with(tmp_path, tools=False), "google/gemma-3-270m-it")
    assert set(hints) == {"gguf_tools_missing"}
    assert "make llama" in hints["gguf_tools_missing"]
    world_with(tmp_path / "other", tools=False).submit(export_config={"format": "merged"})


@pytest.mark.parametrize(
    ("name", "supported"),
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
def test_support_for_a_family_is_decided_by_its_name(tmp_path: Path, name: str, supported: bool) -> None:
    hints = codes(world_with(tmp_path, tools=True), name)
    # Without timm on this machine, Gemma 3n is refused for that, too.
    assert set(hints) - {"timm_missing"} == (set() if supported else {"family_without_gguf"})
    assert supported or "Gemma 1, Gemma 2, Gemma 3" in hints["family_without_gguf"]


@pytest.mark.parametrize(
    ("kind", "supported"), [("gemma3_text", True), ("gemma2", True), ("gemma3n_text", True), ("gemma3n", False)]
)
def test_support_for_a_family_is_decided_by_its_configuration_if_available(
    tmp_path: Path, kind: str, supported: bool
) -> None:
    world = world_with(tmp_path, tools=True)
    config = {"model_type": kind, "max_position_embeddings": 512, "vocab_size": 8}
    world.services.buckets.data.write("models/mine/config.json", json.dumps(config).encode())
    hints = codes(world, f"gs://{world.services.buckets.data.bucket}/models/mine")
    assert ("family_without_gguf" in hints) is not supported


def test_the_hint_in_the_cloud_names_the_build_option() -> None:
    problem = llama_cpp.tools_missing(on_gcp=True)
    assert "GEMTUNE_WITHOUT_GGUF" in str(problem.hint)
