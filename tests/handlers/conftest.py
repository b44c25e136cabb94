from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask.testing
import functions_framework
import pytest

from gemtune import bootstrap
from tests.fakes import ScriptedLauncher

MAIN = Path(__file__).parent.parent.parent / "functions" / "main.py"


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bootstrap.Services]:
    """The services that the functions find, in a home of their own."""
    monkeypatch.setenv("GEMTUNE_HOME", str(tmp_path / "home"))
    bootstrap.services.cache_clear()
    found = bootstrap.services()
    found.__dict__["launcher"] = ScriptedLauncher()
    found.buckets.data.write("processed_datasets/chats/train.jsonl", b"{}\n")
    yield found
    bootstrap.services.cache_clear()


@pytest.fixture
def client_of(services: bootstrap.Services) -> Any:
    """A client of one function, served by functions-framework as on Cloud Functions."""

    def client(target: str) -> flask.testing.FlaskClient:
        app = functions_framework.create_app(target=target, source=str(MAIN))
        client = app.test_client()
        client.environ_base["HTTP_HOST"] = "127.0.0.1:8080"
        return client

    return client


@pytest.fixture
def api(client_of: Any) -> flask.testing.FlaskClient:
    return client_of("api")
