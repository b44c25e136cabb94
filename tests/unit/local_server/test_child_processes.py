"""Steps as child processes: start, adoption after a restart, and their end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gemtune.embedded.sqlite_launcher import SqliteLauncher
from gemtune.local_server.cloud_run_jobs import CloudRunJobs
from gemtune.local_server.workflow_engine.errors import WorkflowError
from gemtune.process import children
from tests.fakes import World

SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str, **environment: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", code], env=environment or None))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def jobs(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CloudRunJobs:
    """Return the connector, with a trainer that executes its first argument."""
    (tmp_path / "trainer.py").write_text("import sys; exec(sys.argv[1])")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return CloudRunJobs(world.services.database, world.services.settings, names=["gemtune-train-local"])


def call(code: str, *, timeout: int = 30) -> dict[str, Any]:
    args = [code, "--job-id", "training_x"]
    overrides = {"timeout": f"{timeout}s", "containerOverrides": [{"args": args}]}
    return {"name": "projects/p/locations/l/jobs/gemtune-train-local", "body": {"overrides": overrides}}


def go_on() -> None:
    return None


def started_before(world: World, name: str, pid: int | None, *, code: str = SLEEP, job_id: str = "training_x") -> None:
    """Record a step as an earlier server that started it would have."""
    arguments = json.dumps(call(code)["body"]["overrides"]["containerOverrides"][0]["args"])
    with world.services.database.write() as connection:
        insert = "INSERT INTO step_executions (name, arguments, pid, job_id) VALUES (?, ?, ?, ?)"
        connection.execute(insert, (name, arguments, pid, job_id))


def wait_until_named(process: subprocess.Popen[bytes], name: str) -> psutil.Process:
    """Wait until the process has its environment, which names it; return it."""
    while (child_process := children.find(process.pid, name)) is None:
        time.sleep(0.01)
    return child_process


def rows(world: World) -> list[Any]:
    return world.services.database.read().execute("SELECT * FROM step_executions").fetchall()


def test_a_step_that_ends_well_returns_and_its_output_is_kept(jobs: CloudRunJobs, world: World) -> None:
    code = "import os; print('hello from', os.environ['CLOUD_RUN_EXECUTION'])"
    result = jobs.run(call(code), check=go_on)
    name = result["name"].removeprefix("executions/")
    log = world.services.settings.home / "export" / "jobs" / "training_x" / "logs" / f"{name}.log"
    assert log.read_text() == f"hello from {name}\n"
    assert rows(world) == []


@pytest.mark.parametrize(
    ("code", "message"), [("sys.exit(70)", "code 70"), ("import os; os.kill(os.getpid(), 9)", "code -9")]
)
def test_a_failing_step_raises_an_error_that_the_workflow_can_catch(
    jobs: CloudRunJobs, code: str, message: str
) -> None:
    with pytest.raises(WorkflowError, match=message):
        jobs.run(call(code), check=go_on)


def test_a_step_that_exceeds_its_timeout_is_killed(jobs: CloudRunJobs, world: World) -> None:
    running: list[Any] = []
    with pytest.raises(WorkflowError, match="exceeded its timeout"):
        jobs.run(call(SLEEP, timeout=1), check=lambda: running.extend(rows(world)))
    assert children.find(running[0]["pid"], running[0]["name"]) is None
    assert rows(world) == []


def test_an_unknown_job_raises_an_error_that_the_workflow_can_catch(jobs: CloudRunJobs) -> None:
    with pytest.raises(WorkflowError, match="no job 'gemtune-none'"):
        jobs.run(call("") | {"name": "projects/p/locations/l/jobs/gemtune-none"}, check=go_on)


@pytest.mark.parametrize("pid_recorded", [True, False])
def test_a_living_child_of_a_server_that_died_is_adopted(
    jobs: CloudRunJobs, world: World, child: Any, pid_recorded: bool
) -> None:
    process = child(SLEEP, **(dict(os.environ) | {"CLOUD_RUN_EXECUTION": "gemtune-train-local-x"}))
    wait_until_named(process, "gemtune-train-local-x")
    started_before(world, "gemtune-train-local-x", process.pid if pid_recorded else None)
    jobs.forget_ended()
    looked = threading.Event()
    result: list[Any] = []
    waiting = threading.Thread(target=lambda: result.append(jobs.run(call(SLEEP), check=looked.set)))
    waiting.start()
    assert looked.wait(60)
    assert len(rows(world)) == 1  # no second one was started
    process.kill()
    process.wait()
    waiting.join(60)
    assert result == [{"name": "executions/gemtune-train-local-x", "succeededCount": 1}]
    assert rows(world) == []


def test_a_stranger_with_the_pid_of_a_dead_child_is_not_adopted(jobs: CloudRunJobs, world: World, child: Any) -> None:
    stranger = child(SLEEP)
    started_before(world, "old", stranger.pid, code="pass")
    assert jobs.run(call("pass"), check=go_on)["name"] != "executions/old"
    assert stranger.poll() is None


def test_giving_up_waiting_leaves_the_child_running(jobs: CloudRunJobs, world: World) -> None:
    class GivenUp(Exception):
        pass

    def check() -> None:
        if rows(world) and rows(world)[0]["pid"]:
            raise GivenUp

    with pytest.raises(GivenUp):
        jobs.run(call(SLEEP), check=check)
    (row,) = rows(world)
    assert row["job_id"] == "training_x"
    assert children.find(row["pid"], row["name"]) is not None
    jobs.stop()
    assert children.find(row["pid"], row["name"]) is None


def test_a_child_that_ignores_sigterm_is_killed(child: Any) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    process = child(code, CLOUD_RUN_EXECUTION="mine")
    step_process = wait_until_named(process, "mine")
    children.terminate(step_process, grace=0.5)
    assert children.find(process.pid, "mine") is None


def test_a_process_is_found_by_its_name_while_it_lives(child: Any) -> None:
    """Identify a process by its name and not by its start time.

    The start time changes when the clock is set.
    """
    process = child(SLEEP, CLOUD_RUN_EXECUTION="mine")
    wait_until_named(process, "mine")
    assert children.pid_of("mine") == process.pid
    assert children.find(process.pid, "another's") is None
    assert children.find(None, "mine") is None
    assert children.find(1, "mine") is None  # a process of the system, whose environment is not readable
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert children.find(process.pid, "mine") is None  # a zombie, not yet waited for
    process.wait()
    assert children.find(process.pid, "mine") is None
    assert children.pid_of("mine") is None


def test_a_running_step_is_stopped_by_its_name(world: World, child: Any) -> None:
    process = child(SLEEP, CLOUD_RUN_EXECUTION="gemtune-train-local-x")
    wait_until_named(process, "gemtune-train-local-x")
    started_before(world, "gemtune-train-local-x", process.pid)
    launcher = SqliteLauncher(world.services.database, clock=world.clock)
    launcher.stop_step("gemtune-train-local-y")
    assert process.poll() is None
    launcher.stop_step("gemtune-train-local-x")
    process.wait(50)  # by itself it would sleep for a minute


def test_children_that_ended_while_no_server_ran_are_forgotten_at_its_start(
    jobs: CloudRunJobs, world: World, child: Any
) -> None:
    alive, stranger = child(SLEEP, CLOUD_RUN_EXECUTION="alive"), child(SLEEP)
    wait_until_named(alive, "alive")
    for name, pid in (("alive", alive.pid), ("dead", stranger.pid), ("never-written-down", None)):
        started_before(world, name, pid)
    jobs.forget_ended()
    assert [row["name"] for row in rows(world)] == ["alive"]
