"""How many shapes' code a process keeps."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from trainer.model.on_cpu.primitive_cache import keep_less_code

BOTH = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


@pytest.mark.parametrize(("threads", "kept"), [(1, "128"), (2, "128"), (8, "512")])
def test_some_shapes_a_core_are_kept(threads: int, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BOTH:
        monkeypatch.setenv(name, "")  # so that what is set here goes again
        monkeypatch.delenv(name)
    keep_less_code(threads)
    assert [os.environ[name] for name in BOTH] == [kept, kept]


def test_who_set_it_is_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BOTH:
        monkeypatch.setenv(name, "7")
    keep_less_code(2)
    assert [os.environ[name] for name in BOTH] == ["7", "7"]


def convolutions_written(limit: str) -> int:
    """How often oneDNN wrote code for a convolution, as it tells itself, when 16 heights come twice. In 32 bits, which
    are its own on every processor."""
    program = f"""
import torch
from trainer.model.on_cpu import primitive_cache
{limit}
for _ in range(2):
    for height in range(33, 49):
        torch.nn.functional.conv2d(torch.ones(1, 16, height, 32), torch.ones(16, 16, 3, 3))
"""
    environment = {name: value for name, value in os.environ.items() if name not in BOTH}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"ONEDNN_VERBOSE": "profile_create"},
        capture_output=True,
        text=True,
        check=True,
    )
    return sum("create:cache_miss" in line and ",convolution," in line for line in ran.stdout.splitlines())


def test_it_is_heeded_though_torch_is_imported_before() -> None:
    """The code of more shapes than are kept is written again when they come again."""
    with_room, without = (
        convolutions_written(""),
        convolutions_written("primitive_cache.LEAST = 4; primitive_cache.keep_less_code(0)"),
    )
    assert with_room > 0
    assert without == 2 * with_room
