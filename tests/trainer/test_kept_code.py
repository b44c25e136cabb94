"""How many shapes' code a process keeps."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from trainer.on_cpu.kept_code import keep_less_code

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


def test_products_heed_it_though_torch_is_imported_before() -> None:
    """By what oneDNN tells of itself: the code of more shapes than are kept is written again when they come again."""
    program = """
import torch
from trainer.on_cpu import kept_code
kept_code.LEAST = 4
kept_code.keep_less_code(0)
for _ in range(2):
    for rows in range(33, 49):
        torch.ones(rows, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
"""
    environment = {name: value for name, value in os.environ.items() if name not in BOTH}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment | {"ONEDNN_VERBOSE": "profile_create"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    written = ran.stdout.count("create:cache_miss")
    if "create:" not in ran.stdout:
        pytest.skip("this processor has no 16-bit products, so oneDNN writes no code for any")
    assert written == 32
