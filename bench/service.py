"""Benchmark of the embedded service: processor time per request, and latency.

`python -m bench.service` starts a server of its own, without the runner of workflows, so that no step runs, and for the
start of a job's first process another one with it. The server's own processor time is measured, because other processes
on the machine disturb it less than wall-clock time. Each number is the median of some rounds, in milliseconds, with its
ratio to `GET /health`, a trivial function, in the same rounds.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from gemtune.bootstrap import Services
from gemtune.jobs import changes
from gemtune.jobs.parts.metrics import EvaluationMetrics, Metrics
from gemtune.jobs.parts.results import Artifact
from gemtune.jobs.record import Attempt, Job, StepRecord
from gemtune.jobs.status import STEPS, Status
from gemtune.local_server import server
from gemtune.local_server.http_server import HOST
from gemtune.services.acceptance.create_job import Submission
from gemtune.settings import Settings

STARTS, ROUNDS, LISTENED, LAUNCHED = 3, 7, 20, 10
# Requests per round.
HEALTH, TRAIN, LIST = "GET /health", "POST /train, dispatched and fanned out", "GET /jobs, 50 of them"
REQUESTS = {HEALTH: 300, TRAIN: 20, LIST: 60}
JOBS, FILES = 60, 10
REQUEST = {"processed_dataset_id": "chats", "training_config": {"base_model_id": "google/gemma-3-270m-it"}}


class WithoutSteps(server.Server):
    """Server that accepts and publishes jobs, but never runs their steps."""

    def loops(self) -> list[Callable[[], None]]:
        return [loop for loop in super().loops() if loop != self.runner.run]


class Client:
    """Client of a server process, which it starts, ends and measures."""

    def __init__(self, home: Path, port: int, *, with_steps: bool = False):
        environment = os.environ | {"GEMTUNE_HOME": str(home), "PORT": str(port)}
        self._environment = environment | {"GEMTUNE_URL": f"http://{HOST}:{port}"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.service", "serve-steps" if with_steps else "serve"],
            env=self._environment,
            stdout=subprocess.DEVNULL,
        )
        self.services = Services(Settings.from_environment(environment))
        self._connection = http.client.HTTPConnection(HOST, port, timeout=60)

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request and return the answer's JSON. Raises RuntimeError."""
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, content, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        result = json.loads(answer.read())
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {result}")
        return result

    def wait_until_it_answers(self) -> None:
        """Wait until the server has started."""
        while True:
            try:
                self.ask("GET", "/health")
            except OSError:
                self._connection.close()
                time.sleep(0.01)
            else:
                return

    def wait_until_published(self) -> None:
        """Wait until all jobs are dispatched and all events published."""
        while any(self.services.store.unpublished()) or any(not job.launch.number for job in self.queued()):
            time.sleep(0.01)

    def queued(self) -> list[Job]:
        """Return the jobs that no execution has claimed."""
        return [job for job in self.services.store.unfinished() if job.launch.execution is None]

    def processor_seconds(self) -> float:
        """Return the server's processor time since its start, in seconds."""
        used = psutil.Process(self._process.pid).cpu_times()
        return used.user + used.system

    def listener(self) -> subprocess.Popen[str]:
        """Start `gemtune listen`, and wait until it listens."""
        command = [sys.executable, "-c", "from gemtune.cli import main; main()", "listen", "--subscription", "bench"]
        listening = subprocess.Popen(command, env=self._environment, stdout=subprocess.PIPE, text=True)
        query = "SELECT 1 FROM subscriptions WHERE name = 'bench'"
        while self.services.database.read().execute(query).fetchone() is None:
            time.sleep(0.01)
        return listening

    def steps(self) -> set[int]:
        """Return the processes of steps that run."""
        running = set()
        for child in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has ended; a zombie is such a process too
                if "trainer" in child.cmdline():
                    running.add(child.pid)
        return running

    def end(self) -> None:
        """Stop the server."""
        self._connection.close()
        self._process.terminate()
        self._process.wait(60)


def main() -> None:
    """Measure starts, requests, waiting and a listener, and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        starts: list[tuple[float, float]] = []
        for number in range(STARTS):
            times, client = _start(Path(folder) / f"home{number}")
            starts.append(times)
            if number + 1 < STARTS:
                client.end()
        try:
            _fill(client.services)
            spent = _rounds(client)
            idle = _idle(client)
            latency = _latency(client)
        finally:
            client.end()
        launch = _launch(Path(folder) / "with-steps")
    print(f"| | processor, ms | times {HEALTH} | ms |\n|---|---|---|---|")
    for name, (processor, wall) in spent.items():
        print(f"| {name} | {processor:.2f} | {processor / spent[HEALTH][0]:.1f} | {wall:.1f} |")
    trivial = spent[HEALTH][1]
    print(f"| from POST to a listener | | | {latency:.0f} ({latency / trivial:.0f} times) |")
    print(f"| from POST to the process of the first step | | | {launch:.0f} ({launch / trivial:.0f} times) |")
    processor, wall = (statistics.median(each[index] for each in starts) for index in (0, 1))
    print(f"| start | {processor:.0f} | | {wall:.0f} |")
    print(f"| one second of waiting | {idle:.1f} | | |")


def _start(home: Path, *, with_steps: bool = False) -> tuple[tuple[float, float], Client]:
    """Start a server; return its milliseconds until it answers, and a client.

    Milliseconds are (processor time, wall-clock time).
    """
    dataset = home / "data" / "processed_datasets" / "chats"
    dataset.mkdir(parents=True)
    (dataset / "train.jsonl").write_text("{}\n")
    began = time.perf_counter()
    client = Client(home, _free_port(), with_steps=with_steps)
    client.wait_until_it_answers()
    wall = time.perf_counter() - began
    return (1000 * client.processor_seconds(), 1000 * wall), client


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _fill(services: Services) -> None:
    """Store records of completed jobs, with all their fields."""
    from gemtune.jobs.sources import Source
    from tests.fakes import reading

    for number in range(JOBS):
        job = services.submit(Submission(reading(job_name=f"job {number}"), Source.HTTP, "local", None))
        services.store.update(job.job_id, _completed)


def _completed(job: Job) -> changes.Changed:
    at = job.created_at
    metrics = EvaluationMetrics(eval_loss=1.0, accuracy=0.5, perplexity=2.7)
    attempts = tuple(Attempt(attempt=number, seconds=60.0, checkpoint=number) for number in range(1, 4))
    step = StepRecord(state="done", attempt=3, execution="e", started_at=at, heartbeat_at=at, attempts=attempts)
    artifacts = (
        Artifact(name=f"file{number}", uri=f"/export/file{number}", bytes=1, sha256="0" * 64) for number in range(FILES)
    )
    update = {
        "status": Status.COMPLETED,
        "started_at": at,
        "finished_at": at,
        "steps": dict.fromkeys(STEPS, step),
        "metrics": Metrics(**metrics.model_dump(), baseline=metrics),
        "artifacts": tuple(artifacts),
    }
    return job.model_copy(update=update), ()


def _rounds(client: Client) -> dict[str, tuple[float, float]]:
    """Return milliseconds per request: (processor time, wall-clock time)."""
    count = iter(range(1_000_000))

    def train() -> None:
        client.ask("POST", "/train", REQUEST | {"job_name": f"job {next(count)}"})

    requests: dict[str, Callable[[], object]] = {
        HEALTH: lambda: client.ask("GET", "/health"),
        TRAIN: train,
        LIST: lambda: client.ask("GET", "/jobs?limit=50&status=completed"),
    }
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in requests}
    for number in range(ROUNDS + 1):  # the first one warms up
        for name, send in requests.items():
            milliseconds = _one_round(client, send, REQUESTS[name])
            if number:
                samples[name].append(milliseconds)
    return {
        name: (statistics.median(each[0] for each in rounds), statistics.median(each[1] for each in rounds))
        for name, rounds in samples.items()
    }


def _one_round(client: Client, send: Callable[[], object], times: int) -> tuple[float, float]:
    """Send a request some times; return the milliseconds of one."""
    before, walls = client.processor_seconds(), []
    for _ in range(times):
        began = time.perf_counter()
        send()
        walls.append(time.perf_counter() - began)
    client.wait_until_published()
    return 1000 * (client.processor_seconds() - before) / times, 1000 * statistics.median(walls)


def _idle(client: Client) -> float:
    """Return the processor time per second of an idle server, in milliseconds."""
    before, began = client.processor_seconds(), time.perf_counter()
    time.sleep(5.0)
    return 1000 * (client.processor_seconds() - before) / (time.perf_counter() - began)


def _latency(client: Client) -> float:
    """Return the median milliseconds from a POST to a listener's output.

    The listener is a process of its own.
    """
    listening, lines = client.listener(), queue.SimpleQueue[tuple[str, float]]()
    output = listening.stdout
    assert output is not None

    def read() -> None:
        for line in output:
            lines.put((line, time.perf_counter()))

    threading.Thread(target=read, daemon=True).start()
    milliseconds = []
    for number in range(LISTENED):
        began = time.perf_counter()
        job_id = client.ask("POST", "/train", REQUEST | {"job_name": f"listened {number}"})["job_id"]
        while True:
            line, at = lines.get(timeout=60)
            event = json.loads(line)
            if (event["job_id"], event["type"]) == (job_id, "job_queued"):
                milliseconds.append(1000 * (at - began))
                break
        time.sleep(0.05 + 0.01 * number)  # different waits, so that requests do not keep the rhythm of a poll
    listening.terminate()
    listening.wait(60)
    return statistics.median(milliseconds)


def _launch(home: Path) -> float:
    """Return the median milliseconds from a POST to the process of a step.

    The server has nothing else to do: each job is cancelled, and its process has ended, before the next one comes.
    """
    _, client = _start(home, with_steps=True)
    milliseconds = []
    try:
        for number in range(LAUNCHED + 1):  # the first one warms up
            began = time.perf_counter()
            job_id = client.ask("POST", "/train", REQUEST | {"job_name": f"launched {number}"})["job_id"]
            while not client.steps():
                time.sleep(0.001)
            milliseconds.append(1000 * (time.perf_counter() - began))
            client.ask("POST", f"/jobs/{job_id}/cancel")
            while client.steps():
                time.sleep(0.05)
            time.sleep(0.05 + 0.01 * number)  # different waits, so that requests do not keep the rhythm of a poll
    finally:
        client.end()
    return statistics.median(milliseconds[1:])


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        server.serve(kind=WithoutSteps)
    elif sys.argv[1:] == ["serve-steps"]:
        server.serve()
    else:
        main()
