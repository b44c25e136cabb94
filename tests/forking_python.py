"""A Python process with large libraries imported, which forks programs.

Importing torch, transformers and PEFT takes a process five seconds, and unsloth eleven. A program that is started here
has a process of its own all the same, which may be killed, but begins with the imports done. At least one test of each
kind of program starts it as the platform does.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn


class ForkedProgram:
    """A running program, with the methods of Popen that tests use."""

    def __init__(self, pid: int):
        self.pid = pid
        self.returncode: int | None = None
        self._ended = threading.Event()

    def record_end(self, code: int) -> None:
        self.returncode = code
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, negative for a signal. Raises TimeoutExpired."""
        if not self._ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


class ForkingPython:
    """Starts programs by forking a process that has imported `modules`.

    environment: the variables that the imports see. Its programs end with it.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str], *, python: Path | str = sys.executable):
        self.environment = dict(environment)
        ours, theirs = socket.socketpair()
        with theirs:
            command = [str(python), "-P", __file__, str(theirs.fileno()), *modules]
            self._process = subprocess.Popen(command, env=self.environment, pass_fds=[theirs.fileno()])
        self._connection, self._lines = ours, ours.makefile("r")
        self._lock = threading.Lock()
        self._programs: dict[int, ForkedProgram] = {}
        self._started: list[ForkedProgram] = []
        self._news = threading.Condition(self._lock)
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> ForkedProgram:
        """Start `python ARGUMENTS` in a session of its own.

        arguments: a module (`-P -m NAME`) or a script, and its arguments. output: file to which its output is appended.
        Raises ChildProcessError if the process that forks is gone.
        """
        request = {"arguments": list(arguments), "environment": dict(environment), "output": str(output)}
        with self._news:
            self._connection.sendall((json.dumps(request) + "\n").encode())
            while not self._started:
                if self._process.poll() is not None:
                    raise ChildProcessError(f"the process that forks ended with {self._process.returncode}")
                self._news.wait(1.0)
            return self._started.pop()

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> tuple[int, str]:
        """Run `python ARGUMENTS` to its end.

        Returns its exit code and its output, which goes to the file `output`, a new one.
        """
        output.unlink(missing_ok=True)
        return self.start(arguments, environment, output).wait(600), output.read_text()

    def stop(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)
        self._process.wait(60)

    def _listen(self) -> None:
        for line in self._lines:
            pid, code = json.loads(line)
            with self._news:
                if code is None:
                    self._programs[pid] = ForkedProgram(pid)
                    self._started.append(self._programs[pid])
                    self._news.notify_all()
                else:
                    self._programs.pop(pid).record_end(code)


def main(connection: socket.socket, modules: Sequence[str]) -> None:
    """Import the modules; fork for each request.

    Ends, with all programs, when the connection is closed.
    """
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waking)
    running: set[int] = set()
    requests, sources = connection.makefile("rb", buffering=0), (connection.fileno(), woken)
    while True:
        for ready in select.select(sources, [], [])[0]:
            if ready == woken:
                os.read(woken, 1024)
                _report_ended(connection, running)
            elif not (line := requests.readline()):
                for pid in running:
                    os.killpg(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                return
            else:
                in_session, left = os.pipe()
                pid = os.fork()
                if pid == 0:
                    requests.close()
                    connection.close()
                    _become(json.loads(line), left)
                os.close(left)
                os.read(in_session, 1)  # returns once the child has its session, so that its group can be killed
                os.close(in_session)
                running.add(pid)
                _send(connection, pid, None)


def _report_ended(connection: socket.socket, running: set[int]) -> None:
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            running.remove(pid)
            _send(connection, pid, os.waitstatus_to_exitcode(status))


def _send(connection: socket.socket, pid: int, code: int | None) -> None:
    connection.sendall((json.dumps([pid, code]) + "\n").encode())


def _become(request: dict[str, Any], left: int) -> NoReturn:
    """Run the module of a request as the program of this process.

    left: closed once this process has a session of its own.
    """
    os.setsid()
    os.close(left)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environment"])
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    arguments = [argument for argument in request["arguments"] if argument != "-P"]
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")
    sys.exit(0)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
