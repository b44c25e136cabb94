"""Steps as child processes: adopted after a restart, told from strangers, ended when they must."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gemtune.local_server.cloud_run_jobs import CloudRunJobs
from gemtune.local_server.workflow_engine import WorkflowError
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


def rows(world: World) -> list[Any]:
    return world.services.database.read().execute("SELECT * FROM step_executions").fetchall()


def test_a_step_that_ends_well_returns_and_its_output_is_kept(jobs: CloudRunJobs, world: World) -> None:
    code = "import os; print('hello from', os.environ['CLOUD_RUN_EXECUTION'])"
    result = jobs.run(call(code), check=go_on)
    name = result["name"].removeprefix("executions/")
    log = world.services.settings.home / "export" / "jobs" / "training_x" / "logs" / f"{name}.log"
    assert log.read_text() == f"hello from {name}\n"
    assert [row["ended"] for row in rows(world)] == [1]


@pytest.mark.parametrize(
    ("code", "said"), [("sys.exit(70)", "code 70"), ("import os; os.kill(os.getpid(), 9)", "code -9")]
)
def test_a_step_that_ends_badly_raises_what_the_workflow_can_catch(jobs: CloudRunJobs, code: str, said: str) -> None:
    with pytest.raises(WorkflowError, match=said):
        jobs.run(call(code), check=go_on)


def test_a_step_that_takes_too_long_is_ended(jobs: CloudRunJobs, world: World) -> None:
    with pytest.raises(WorkflowError, match="out of time"):
        jobs.run(call(SLEEP, timeout=1), check=go_on)
    assert children.find(rows(world)[0]["pid"], rows(world)[0]["started"]) is None


def test_a_job_that_is_not_there_is_an_error_of_the_workflow(jobs: CloudRunJobs) -> None:
    with pytest.raises(WorkflowError, match="no job 'gemtune-none'"):
        jobs.run(call("") | {"name": "projects/p/locations/l/jobs/gemtune-none"}, check=go_on)


@pytest.mark.parametrize("written_down", [True, False])
def test_a_living_child_of_a_server_that_died_is_adopted(
    jobs: CloudRunJobs, world: World, child: Any, written_down: bool
) -> None:
    import os

    process = child(SLEEP, **(dict(os.environ) | {"CLOUD_RUN_EXECUTION": "gemtune-train-local-x"}))
    started = children.started_at(process.pid)
    arguments = json.dumps(call(SLEEP)["body"]["overrides"]["containerOverrides"][0]["args"])
    with world.services.database.write() as connection:
        known = (process.pid, started) if written_down else (None, None)
        connection.execute(
            "INSERT INTO step_executions VALUES ('gemtune-train-local-x', ?, ?, ?, 0)", (arguments, *known)
        )
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
    assert len(result) == len(rows(world)) == 2


def test_a_dead_childs_pid_in_new_hands_is_not_adopted(jobs: CloudRunJobs, world: World, child: Any) -> None:
    stranger = child(SLEEP)
    arguments = json.dumps(call("pass")["body"]["overrides"]["containerOverrides"][0]["args"])
    with world.services.database.write() as connection:
        connection.execute("INSERT INTO step_executions VALUES ('old', ?, ?, 1.0, 0)", (arguments, stranger.pid))
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
    process = children.find(row["pid"], row["started"])
    assert process is not None
    jobs.stop()
    assert children.find(row["pid"], row["started"]) is None


def test_a_child_that_ignores_the_word_is_killed(child: Any) -> None:
    process = child("import signal, time; signal.signal(15, signal.SIG_IGN); print('x', flush=True); time.sleep(60)")
    found = children.find(process.pid, children.started_at(process.pid))
    assert found is not None
    children.end(found, grace=0.5)
    assert children.find(process.pid, children.started_at(process.pid)) is None


def test_a_process_is_known_after_the_clock_was_set_by_a_second(child: Any) -> None:
    """Its start time is reckoned from that of boot, which Linux tells in whole seconds of the clock as it is now."""
    process = child(SLEEP)
    started = children.started_at(process.pid)
    assert started is not None
    for error in (-1.0, 0.0, 1.0, 2.0):
        assert children.find(process.pid, started + error) is not None
    assert children.find(process.pid, started - 60) is None
