"""Steps as child processes: adopted after a restart, told from strangers, ended when they must."""

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
    """The connector, with a trainer that does what its first argument says."""
    (tmp_path / "trainer.py").write_text("import sys; exec(sys.argv[1])")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return CloudRunJobs(world.services.database, world.services.settings, parallel={"gemtune-train-local": 1})


def call(code: str, *, timeout: int = 30) -> dict[str, Any]:
    args = [code, "--job-id", "training_x"]
    overrides = {"timeout": f"{timeout}s", "containerOverrides": [{"args": args}]}
    return {"name": "projects/p/locations/l/jobs/gemtune-train-local", "body": {"overrides": overrides}}


def go_on() -> None:
    return None


def started_before(world: World, name: str, pid: int | None, *, code: str = SLEEP, job_id: str = "training_x") -> None:
    """Write down a step that an earlier server started."""
    arguments = json.dumps(call(code)["body"]["overrides"]["containerOverrides"][0]["args"])
    with world.services.database.write() as connection:
        insert = "INSERT INTO step_executions (name, arguments, pid, job_id) VALUES (?, ?, ?, ?)"
        connection.execute(insert, (name, arguments, pid, job_id))


def begun(process: subprocess.Popen[bytes], name: str) -> psutil.Process:
    """The process once it is itself: for a moment after its start it has no environment."""
    while (found := children.find(process.pid, name)) is None:
        time.sleep(0.01)
    return found


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
    ("code", "said"), [("sys.exit(70)", "code 70"), ("import os; os.kill(os.getpid(), 9)", "code -9")]
)
def test_a_step_that_ends_badly_raises_what_the_workflow_can_catch(jobs: CloudRunJobs, code: str, said: str) -> None:
    with pytest.raises(WorkflowError, match=said):
        jobs.run(call(code), check=go_on)


def test_a_step_that_takes_too_long_is_ended(jobs: CloudRunJobs, world: World) -> None:
    known: list[Any] = []
    with pytest.raises(WorkflowError, match="out of time"):
        jobs.run(call(SLEEP, timeout=1), check=lambda: known.extend(rows(world)))
    assert children.find(known[0]["pid"], known[0]["name"]) is None
    assert rows(world) == []


def test_a_job_that_is_not_there_is_an_error_of_the_workflow(jobs: CloudRunJobs) -> None:
    with pytest.raises(WorkflowError, match="no job 'gemtune-none'"):
        jobs.run(call("") | {"name": "projects/p/locations/l/jobs/gemtune-none"}, check=go_on)


@pytest.mark.parametrize("written_down", [True, False])
def test_a_living_child_of_a_server_that_died_is_adopted(
    jobs: CloudRunJobs, world: World, child: Any, written_down: bool
) -> None:
    process = child(SLEEP, **(dict(os.environ) | {"CLOUD_RUN_EXECUTION": "gemtune-train-local-x"}))
    begun(process, "gemtune-train-local-x")
    started_before(world, "gemtune-train-local-x", process.pid if written_down else None)
    jobs.forget_dead()
    looked = threading.Event()
    result: list[Any] = []
    waiting = threading.Thread(target=lambda: result.append(jobs.run(call(SLEEP), check=looked.set)))
    waiting.start()
    assert looked.wait(60)
    looks = threading.Semaphore(0)
    other = threading.Thread(target=lambda: result.append(jobs.run(call("pass"), check=looks.release)))
    other.start()
    assert looks.acquire(timeout=60)
    assert looks.acquire(timeout=60)
    assert len(rows(world)) == 1  # the adopted one has the only turn
    process.kill()
    process.wait()
    waiting.join(60)
    other.join(60)
    assert result[0] == {"name": "executions/gemtune-train-local-x", "succeededCount": 1}
    assert (len(result), rows(world)) == (2, [])


def test_a_dead_childs_pid_in_new_hands_is_not_adopted(jobs: CloudRunJobs, world: World, child: Any) -> None:
    stranger = child(SLEEP)
    started_before(world, "old", stranger.pid, code="pass")
    assert jobs.run(call("pass"), check=go_on)["name"] != "executions/old"
    assert stranger.poll() is None


def test_what_gives_up_waiting_leaves_the_child_alone(jobs: CloudRunJobs, world: World) -> None:
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


def test_a_child_that_ignores_the_word_is_killed(child: Any) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    process = child(code, CLOUD_RUN_EXECUTION="mine")
    found = begun(process, "mine")
    children.end(found, grace=0.5)
    assert children.find(process.pid, "mine") is None


def test_a_process_is_known_by_its_name_and_a_dead_one_is_none(child: Any) -> None:
    """No clock tells it from a stranger: its start time moves with the clock that is set."""
    process = child(SLEEP, CLOUD_RUN_EXECUTION="mine")
    begun(process, "mine")
    assert children.named("mine") == process.pid
    assert children.find(process.pid, "another's") is None
    assert children.find(None, "mine") is None
    assert children.find(1, "mine") is None  # of the system, which may not be looked into
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert children.find(process.pid, "mine") is None  # though nobody has waited for it yet
    process.wait()
    assert children.find(process.pid, "mine") is None
    assert children.named("mine") is None


def test_a_running_step_is_stopped_by_its_name(world: World, child: Any) -> None:
    process = child(SLEEP, CLOUD_RUN_EXECUTION="gemtune-train-local-x")
    begun(process, "gemtune-train-local-x")
    started_before(world, "gemtune-train-local-x", process.pid)
    launcher = SqliteLauncher(world.services.database, clock=world.clock)
    launcher.stop_step("gemtune-train-local-y")
    assert process.poll() is None
    launcher.stop_step("gemtune-train-local-x")
    process.wait(50)  # it would sleep for a minute; who ended it may have asked first how it did


def test_children_that_ended_while_no_server_ran_are_forgotten_at_its_start(
    jobs: CloudRunJobs, world: World, child: Any
) -> None:
    alive, stranger = child(SLEEP, CLOUD_RUN_EXECUTION="alive"), child(SLEEP)
    begun(alive, "alive")
    for name, pid in (("alive", alive.pid), ("dead", stranger.pid), ("never-written-down", None)):
        started_before(world, name, pid)
    jobs.forget_dead()
    assert [row["name"] for row in rows(world)] == ["alive"]
