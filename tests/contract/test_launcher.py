"""Launcher: one execution per launch, and stopping of executions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gemtune.embedded.sqlite_launcher import SqliteLauncher
from gemtune.ports import ExecutionState, Launcher
from gemtune.settings import Settings
from tests.conftest import GCP
from tests.fakes import World


@pytest.fixture(params=["embedded", GCP])
def launcher(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Launcher]:
    if request.param == "embedded":
        yield SqliteLauncher(world.services.database, clock=world.clock)
        return
    from gemtune.gcp.workflows_launcher import WorkflowsLauncher
    from tests.emulators.cloud_run import CloudRunStandIn
    from tests.emulators.workflows import WorkflowsStandIn

    cloud_run = CloudRunStandIn(tmp_path / "logs")
    # No server listens on this port, so an execution keeps retrying and stays active.
    workflows = WorkflowsStandIn(cloud_run.url, {"CONTROL_URL": "http://127.0.0.1:9", "RUN_PARENT": "x"})
    settings: dict[str, Any] = {
        "GEMTUNE_BACKEND": "gcp",
        "PROJECT_ID": "p",
        "REGION": "r",
        "WORKFLOWS_EMULATOR_HOST": workflows.address,
        "CLOUD_RUN_EMULATOR_HOST": cloud_run.url,
        **{f"GCS_{name}_BUCKET_NAME": name.lower() for name in ("CONFIG", "DATA", "UPLOADS", "EXPORT")},
    }
    workflows_launcher = WorkflowsLauncher(Settings.from_environment(settings))
    workflows_launcher.stand_in = workflows  # type: ignore[attr-defined]
    workflows_launcher.cloud_run = cloud_run  # type: ignore[attr-defined]
    yield workflows_launcher
    workflows.stop()
    cloud_run.stop()


def test_the_same_launch_is_the_same_execution(launcher: Launcher) -> None:
    first = launcher.start("training_a", 1)
    assert launcher.start("training_a", 1) == first
    others = {launcher.start("training_a", 2), launcher.start("training_b", 1), launcher.start("training_a", 12)}
    assert len(others | {first}) == 4
    assert "/" not in first  # the workflow sees its own id only, without a path


def test_a_stopped_execution_has_ended_and_can_be_stopped_again(launcher: Launcher) -> None:
    execution = launcher.start("training_a", 1)
    assert launcher.state(execution) is ExecutionState.ACTIVE
    launcher.stop(execution)
    launcher.stop(execution)
    assert launcher.state(execution) is ExecutionState.CANCELLED


def test_an_unknown_execution_is_gone(launcher: Launcher) -> None:
    assert launcher.state("unknown") is ExecutionState.GONE
    launcher.stop("unknown")
    launcher.stop_step("gemtune-train-unknown")


@pytest.mark.emulators
@pytest.mark.parametrize("launcher", ["gcp"], indirect=True)
def test_executions_of_a_job_are_stopped_by_their_arguments(launcher: Any) -> None:
    """Stop one that has not begun, too: it has no name in any record."""
    cloud_run, location = launcher.cloud_run, "projects/p/locations/r/jobs"
    container = {"command": [sys.executable, "-c", "import time; time.sleep(60)"]}
    job = {"template": {"template": {"containers": [container], "timeout": "60s"}}}
    cloud_run.answer("POST", f"/v2/{location}?jobId=gemtune-train-l4", job)
    names = {}
    for job_id in ("training_a", "training_b"):
        overrides = {"overrides": {"containerOverrides": [{"args": ["train", "--job-id", job_id]}]}}
        started = cloud_run.answer("POST", f"/v2/{location}/gemtune-train-l4:run", overrides)[1]
        names[job_id] = started["metadata"]["name"].rpartition("/")[2]
    launcher.stop_steps("gemtune-train-l4", "training_a")
    launcher.stop_steps("gemtune-train-none", "training_b")
    assert [cloud_run.cancelled(name) for name in names.values()] == [True, False]


@pytest.mark.emulators
@pytest.mark.parametrize("launcher", ["gcp"], indirect=True)
def test_a_platform_that_does_not_filter_by_label_still_starts_a_launch_once(launcher: Any) -> None:
    launcher.stand_in.filters = False
    first = launcher.start("training_a", 1)
    assert launcher.start("training_a", 1) == first
    assert launcher.start("training_b", 1) != first
