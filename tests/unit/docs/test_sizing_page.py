"""The memory that pages state, compared with the estimate that places jobs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from docs.generate.pages.sizing import sizes
from gemtune.machines.choice import MACHINES
from gemtune.machines.memory import MemoryNeed, memory_for_training
from gemtune.request.placement import load_of
from gemtune.request.training_config import TrainingConfig

DOCS = Path(__file__).parent.parent.parent.parent / "docs"
SIZES = dict(sizes())


def need(model: str, *, length: int = 2048, **training: Any) -> MemoryNeed:
    config = TrainingConfig.model_validate({"base_model_id": "google/gemma-3-270m-it"} | training)
    return memory_for_training(SIZES[model], replace(load_of(config, "text"), length=length))


def fitting(model: str, **fields: Any) -> set[str]:
    """Return the machines with a GPU that a training fits on."""
    needed = need(model, **fields)
    return {name for name, machine in MACHINES.items() if machine.gpu is not None and machine.has(needed)}


@pytest.mark.parametrize("words", ["270M", "1B", "4B"])
def test_the_memory_of_lora_on_a_cpu_is_at_most_what_the_page_says(words: str) -> None:
    model = f"gemma-3-{words.lower()}"
    default = math.ceil(need(model).host_without_gpu)
    smallest = math.ceil(need(model, method="QLoRA", batch_size=1).host_without_gpu)
    cell = f"{default}; {smallest} with QLoRA and `batch_size` 1" if words == "4B" else f"{default}"
    assert f"| Gemma 3 {words} | {cell} |" in (DOCS / "sizing.md").read_text()


def test_the_page_on_models_names_the_same_memory() -> None:
    small, large = (math.ceil(need(f"gemma-3-{size}").host_without_gpu) for size in ("270m", "1b"))
    page = " ".join((DOCS / "models.md").read_text().split())
    assert f"with its defaults LoRA takes at most {small} and {large} GiB of memory on a CPU" in page


def test_the_examples_of_the_page_fit_where_it_says() -> None:
    smallest: dict[str, Any] = {"method": "QLoRA", "batch_size": 1}
    assert fitting("gemma-3-27b", **smallest) == {"l4", "rtx-pro-6000"}
    assert fitting("gemma-4-31b", **smallest) == {"rtx-pro-6000"}
    assert fitting("gemma-4-31b", **smallest, length=1024) == {"l4", "rtx-pro-6000"}
    assert fitting("gemma-3-4b", method="Full") == fitting("gemma-4-e2b", method="Full") == {"rtx-pro-6000"}
    assert fitting("gemma-4-e4b", method="Full") == set()
    full, largest = need("gemma-4-e4b", method="Full"), MACHINES["rtx-pro-6000"]
    assert full.gpu > largest.gpu_gib
    assert full.host_with_gpu <= largest.memory_gib
