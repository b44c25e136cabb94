"""Garbage collection while rows are read."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import suppress

import pytest

from trainer.process import imports
from trainer.process.collection import only_new_objects_collected


class Node:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def nothing_frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what other tests froze, and freeze it again afterwards."""
    gc.unfreeze()
    monkeypatch.setattr(imports, "_is_frozen", False)
    yield
    gc.freeze()


def test_garbage_of_the_block_is_collected_and_older_objects_are_not_looked_at() -> None:
    older = Node()
    with only_new_objects_collected():
        assert not any(each is older for each in gc.get_objects())
        for _ in range(10):
            Node()
        gc.collect()
        assert not any(isinstance(each, Node) for each in gc.get_objects())
    assert any(each is older for each in gc.get_objects())


def test_the_process_collects_as_before_after_an_error() -> None:
    before, within = gc.get_threshold(), []
    with suppress(ValueError), only_new_objects_collected():
        within.append(gc.get_threshold())
        raise ValueError
    assert within != [before]
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_imports_that_were_frozen_stay_frozen() -> None:
    imports.freeze()
    frozen, newer = gc.get_freeze_count(), Node()
    with only_new_objects_collected():
        assert any(each is newer for each in gc.get_objects())
    assert 0 < gc.get_freeze_count() <= frozen  # threads of other tests may drop frozen objects
