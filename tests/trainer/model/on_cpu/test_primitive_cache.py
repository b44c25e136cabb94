"""Size of oneDNN's cache of generated code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from trainer.model.on_cpu.primitive_cache import limit_primitive_caches

VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


@pytest.mark.parametrize(("threads", "expected"), [(1, "128"), (2, "128"), (8, "512")])
def test_the_cache_holds_a_number_of_shapes_per_core(
    threads: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that monkeypatch undoes what limit_primitive_caches sets
        monkeypatch.delenv(name)
    limit_primitive_caches(threads)
    assert [os.environ[name] for name in VARIABLES] == [expected, expected]


def test_a_configured_size_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "7")
    limit_primitive_caches(2)
    assert [os.environ[name] for name in VARIABLES] == ["7", "7"]


def convolutions_compiled(limit: str) -> int:
    """Return how often oneDNN generated code for 16 shapes that occur twice.

    It logs this itself. In 32 bits it uses its own code on every processor.
    """
    program = f"""
import torch
from trainer.model.on_cpu import primitive_cache
{limit}
for _ in range(2):
    for height in range(33, 49):
        torch.nn.functional.conv2d(torch.ones(1, 16, height, 32), torch.ones(16, 16, 3, 3))
"""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    completed = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"ONEDNN_VERBOSE": "profile_create"},
        capture_output=True,
        text=True,
        check=True,
    )
    return sum("create:cache_miss" in line and ",convolution," in line for line in completed.stdout.splitlines())


def test_the_size_takes_effect_after_torch_was_imported() -> None:
    """Code that was dropped from the cache has to be generated again."""
    cached, uncached = (
        convolutions_compiled(""),
        convolutions_compiled("primitive_cache.MIN_SHAPES = 4; primitive_cache.limit_primitive_caches(0)"),
    )
    assert cached > 0
    assert uncached == 2 * cached
