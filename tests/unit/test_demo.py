"""The demo's server goes when the demo does, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

RUNS = """
import time
from gemtune.cli.demo import _service
from gemtune.settings import Settings
with _service(Settings.from_environment()):
    print("serves", flush=True)
    time.sleep(600)
"""


def server_of(home: Path) -> psutil.Process:
    (found,) = [p for p in psutil.Process().children(recursive=True) if "up" in p.cmdline()]
    assert found.environ()["GEMTUNE_HOME"] == str(home)
    return found


def test_the_server_of_a_demo_that_was_killed_stops(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PORT"}
    demo = subprocess.Popen(
        [sys.executable, "-c", RUNS], env=environment | {"GEMTUNE_HOME": str(tmp_path)}, stdout=subprocess.PIPE
    )
    try:
        assert demo.stdout is not None
        assert demo.stdout.readline() == b"serves\n"
        server = server_of(tmp_path)
        demo.kill()
        _, alive = psutil.wait_procs([server], timeout=60)
        if alive:
            server.kill()
        assert not alive, "it goes on"
        assert "gemtune stops" in (tmp_path / "server.log").read_text()  # as by SIGTERM: its trainers stop too
    finally:
        demo.kill()
        demo.wait()
