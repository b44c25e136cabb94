"""Imports of the gcp functions: only what a route needs, nothing embedded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emulators.world import GcpWorld

pytestmark = pytest.mark.emulators

MAIN = Path(__file__).parent.parent.parent / "functions" / "main.py"
CLIENTS = {
    "firestore": "google.cloud.firestore",
    "pubsub": "google.cloud.pubsub_v1",
    "storage": "google.cloud.storage",
    "secrets": "google.cloud.secretmanager_v1",
    "workflows": "google.cloud.workflows",
    "run": "google.cloud.run_v2",
}


def clients_after(world: GcpWorld, calls: str) -> set[str]:
    """Return which of Google's clients are loaded after calls of the api.

    Importing gemtune.embedded fails.
    """
    code = f"""
import sys
sys.modules["gemtune.embedded"] = None
from functions_framework import create_app
client = create_app(target="api", source={str(MAIN)!r}).test_client()
{calls}
print(*[name for name, module in {CLIENTS!r}.items() if module in sys.modules])
"""
    environment = os.environ | world.environment
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=240
    )
    assert completed.returncode == 0, completed.stderr
    return set(completed.stdout.splitlines()[-1].split())


def test_health_needs_no_client(world: GcpWorld) -> None:
    assert clients_after(world, 'assert client.get("/health").status_code == 200') == set()


def test_reading_jobs_needs_firestore_only(world: GcpWorld) -> None:
    calls = 'assert client.get("/jobs").status_code == 200; assert client.get("/jobs/x/status").status_code == 404'
    assert clients_after(world, calls) == {"firestore"}


def test_a_request_without_a_token_needs_no_secrets_and_no_request_needs_the_workflow(world: GcpWorld) -> None:
    body = {"processed_dataset_id": "chats", "training_config": {"base_model_id": "google/gemma-3-270m-it"}}
    calls = f'answer = client.post("/train", json={body!r}); assert answer.status_code == 202, answer.text'
    assert clients_after(world, calls) == {"firestore", "storage", "pubsub"}
