"""Child processes that end with their parent, however the parent ends."""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# The shell reads a pipe that only its parent holds open. Once the pipe closes, the parent has died or called stop().
BOUND = '"$@" </dev/null & child=$!; cat >/dev/null; kill "$child" 2>/dev/null; wait "$child"'

PORTS = (10_000, 32_768)


class Child:
    """A child process that ends with this one; its output goes to a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None):
        self.name, self.log = name, log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["sh", "-c", BOUND, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches only the parent, which then stops its children in order
            )

    @property
    def pid(self) -> int:
        """The process id of the shell, whose child is the command."""
        return self._process.pid

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def free_port() -> int:
    """Return a port for a server that starts later.

    It is below the ports that systems give to connections and to servers without a port of their own. One of those
    could take it in the meantime.
    """
    while True:
        port = random.SystemRandom().randrange(*PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_for_port(port: int, child: Child, *, seconds: float = 240) -> None:
    """Wait until something listens on the port.

    Raises TimeoutError with the end of the child's log.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.03)
    raise TimeoutError(f"{child.name} does not listen after {seconds} s: {child.log.read_text()[-2000:]}")
