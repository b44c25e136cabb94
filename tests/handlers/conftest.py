from __future__ import annotations

from pathlib import Path
from typing import Any

import flask.testing
import functions_framework
import pytest

from gemtune import bootstrap
from tests import memory
from tests.fakes import World

tmp_path = memory.tmp_path

embedded_only = pytest.mark.parametrize("backend", ["embedded"], indirect=True)
MAIN = Path(__file__).parent.parent.parent / "functions" / "main.py"


@pytest.fixture
def services(backend: World, monkeypatch: pytest.MonkeyPatch) -> bootstrap.Services:
    """Make the functions use the services of each backend."""
    monkeypatch.setattr("gemtune.bootstrap.services", lambda: backend.services)
    return backend.services


@pytest.fixture
def client_of(services: bootstrap.Services) -> Any:
    """Return a function that makes a client of one Cloud Function.

    functions-framework serves it, as on Cloud Functions.
    """

    def client(target: str) -> flask.testing.FlaskClient:
        app = functions_framework.create_app(target=target, source=str(MAIN))
        client = app.test_client()
        client.environ_base["HTTP_HOST"] = "127.0.0.1:8080"
        return client

    return client


@pytest.fixture
def api(client_of: Any) -> flask.testing.FlaskClient:
    return client_of("api")
