"""Workstation server of one test: a process on a free port with its own home."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import psutil

from tests.e2e.api import Api, command, wait_for
from tests.emulators.children import free_port
from tests.forking_python import ForkingPython


class Service(Api):
    """Server process that tests start, kill and send requests to.

    Always use it as a context manager, so that none of its processes outlives the test.
    """

    def __init__(self, home: Path, forking: ForkingPython | None = None):
        """Use `home`.

        forking: forks the server's trainers, which is cheaper than to start them. They cannot use the Hub.
        """
        self.home = home
        self.port = free_port()
        super().__init__(f"http://127.0.0.1:{self.port}")
        self._environment = os.environ | {"GEMTUNE_HOME": str(home), "PORT": str(self.port), "GEMTUNE_URL": self.url}
        self.process: subprocess.Popen[bytes] | None = None
        self._command = command("up", python=None if forking is None else forking.executable)

    @property
    def environment(self) -> dict[str, str]:
        return self._environment

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for child in self.trainers():
            child.kill()
        self.client.close()

    def start(self) -> None:
        log = (self.home / "server.log").open("ab")
        self.process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
        wait_for(self.is_healthy, seconds=240, what="the server")

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(240)
            self.process = None

    def kill(self, *, with_trainers: bool) -> None:
        """Kill the server with SIGKILL, as a power cut does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)
        self.process = None
        if with_trainers:
            children = self.trainers()
            for child in children:
                child.kill()
            psutil.wait_procs(children, timeout=60)

    def is_healthy(self) -> bool:
        try:
            return self.client.get("/health").status_code == 200
        except httpx2.TransportError:
            return False

    def trainers(self) -> list[psutil.Process]:
        """Return the running trainer processes of this home.

        They are recognized by GEMTUNE_HOME in their environment.
        """
        trainers = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("GEMTUNE_HOME") == str(self.home)
                if ours and "trainer" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    trainers.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return trainers

    def put_dataset(
        self, dataset: str, rows: list[dict[str, Any]], held_out: list[dict[str, Any]] | None = None
    ) -> None:
        folder = self.home / "data" / "processed_datasets" / dataset
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if held_out is not None:
            (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))

    def logs(self, job_id: str) -> str:
        logs = sorted((self.home / "export" / "jobs" / job_id / "logs").glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in logs)
