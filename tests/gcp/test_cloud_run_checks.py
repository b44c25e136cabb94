"""Check of a dataset as an execution of the prepare step's Cloud Run job."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import run_v2

from gemtune.checks import request
from gemtune.services.datasets.check import CheckState
from tests import rows, tiny_gemma
from tests.emulators.cloud_run import CloudRunStandIn
from tests.emulators.google import REGION, Emulators
from tests.emulators.world import GcpWorld
from tests.fakes import upload_folder

pytestmark = pytest.mark.emulators


class CheckedWorld(GcpWorld):
    """A project whose Cloud Run job of the prepare step runs the trainer."""

    def __init__(self, home: Path, emulators: Emulators, command: list[str]):
        super().__init__(home, emulators)
        self.cloud_run = CloudRunStandIn(home / "logs")
        self.environment["CLOUD_RUN_EMULATOR_HOST"] = self.cloud_run.url
        super(GcpWorld, self).__init__(home, self.environment)
        client = run_v2.JobsClient(
            credentials=AnonymousCredentials(), transport="rest", client_options={"api_endpoint": self.cloud_run.url}
        )
        variables = emulators.environment | self.environment | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        env = [{"name": name, "value": value} for name, value in variables.items()]
        container = {"image": "local", "command": command, "env": env}
        template = {"template": {"max_retries": 0, "timeout": "3600s", "containers": [container]}}
        parent = f"projects/{self.project}/locations/{REGION}"
        client.create_job(parent=parent, job_id="gemtune-prepare", job=run_v2.Job(template=template)).result()

    def stop(self) -> None:
        self.cloud_run.stop()
        super().stop()


@pytest.fixture
def command() -> list[str]:
    return [sys.executable, "-m", "trainer"]


@pytest.fixture
def world(emulators: Emulators, tmp_path: Path, command: list[str]) -> Iterator[CheckedWorld]:
    world = CheckedWorld(tmp_path / "home", emulators, command)
    yield world
    world.stop()


def check(world: CheckedWorld, base_model_id: str) -> CheckState:
    service = world.services.check_dataset
    state = service.begin("chats", request.read(json.dumps({"base_model_id": base_model_id}).encode()))
    while state.status == "running":
        time.sleep(0.05)
        state = service.read("chats", state.record.check_id)
    return state


def test_an_execution_leaves_the_report_in_the_bucket(world: CheckedWorld, tmp_path: Path) -> None:
    buckets = world.services.buckets
    upload_folder(buckets.data, tiny_gemma.build(tmp_path / "base"), "models/tiny")
    content = "".join(json.dumps(row) + "\n" for row in [*rows.train_rows(24), {"a": 1}])
    buckets.data.write("processed_datasets/chats/train.jsonl", content.encode())
    state = check(world, f"gs://{buckets.data.bucket}/models/tiny")
    assert (state.status, state.error) == ("done", None)
    assert state.report is not None
    assert state.report.trains
    assert state.report.rows is not None
    assert (state.report.rows.train, state.report.rows.refused) == (24, 1)
    place = f"gs://{buckets.export.bucket}/checks/chats/{state.record.check_id}/rows_left_out.jsonl"
    assert state.report.rows_left_out == place
    assert state.rows_left_out is not None
    assert state.rows_left_out.url is not None


@pytest.mark.parametrize("command", [[sys.executable, "-c", "raise SystemExit(70)"]])
def test_an_execution_that_ends_without_a_report_has_failed(world: CheckedWorld) -> None:
    world.services.buckets.data.write("processed_datasets/chats/train.jsonl", b"{}\n")
    state = check(world, "google/gemma-3-270m-it")
    assert state.error is not None
    assert (state.status, state.error.code, state.report) == ("failed", "check_crashed", None)
