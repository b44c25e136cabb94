"""Shared documents: small texts that several writers change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from gemtune.ports import SharedDocuments
from tests.fakes import World


@pytest.fixture
def documents(backend: World) -> SharedDocuments:
    return backend.services.shared


def test_a_document_is_created_changed_and_deleted(documents: SharedDocuments) -> None:
    assert documents.read("slots/l4") is None
    assert documents.update("slots/l4", lambda body: f"{body}1") == "None1"
    assert documents.update("slots/l4", lambda body: f"{body}2") == "None12"
    assert documents.read("slots/l4") == "None12"
    assert documents.update("slots/l4", lambda body: None) is None
    assert documents.read("slots/l4") is None
    assert documents.update("slots/l4", lambda body: None) is None


def test_names_are_listed_by_prefix(documents: SharedDocuments) -> None:
    for name in ("slots/l4", "slots/export-rtx-pro-6000", "slot", "throughput/l4"):
        documents.update(name, lambda body: "x")
    assert list(documents.names("slots/")) == ["slots/export-rtx-pro-6000", "slots/l4"]
    assert list(documents.names("nothing/")) == []
    assert list(documents.names("slots/", before="slots/l4")) == ["slots/export-rtx-pro-6000"]
    assert list(documents.names("slots/", before="a")) == []


def test_concurrent_changes_are_all_made(documents: SharedDocuments) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: documents.update("count", lambda body: str(int(body or 0) + 1)), range(24)))
    assert documents.read("count") == "24"


def test_a_change_that_raises_writes_nothing(documents: SharedDocuments) -> None:
    documents.update("count", lambda body: "7")
    with pytest.raises(ZeroDivisionError):
        documents.update("count", lambda body: str(1 // 0))
    assert documents.read("count") == "7"
