"""A Python process with large libraries imported, which forks programs.

Importing torch, transformers and PEFT takes a process five seconds, and unsloth eleven. A program that is started here
has a process of its own all the same, which may be killed, but begins with the imports done. At least one test of each
kind of program starts it as the platform does.

Code that starts `sys.executable` can have its programs forked too: `ForkingPython.executable` is a command that takes
Python's arguments. Its process stands for the forked program: it ends as the program ends, passes SIGTERM on, and takes
the program with it when it is killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

# Programs that processes of the product start, and that import large libraries.
FORKED = ("trainer", "trainer.answers", "trainer.certificate.comparison_process")
EXECUTABLE = """#!/bin/sh
exec "{python}" -I -S "{script}" run "{address}" "$@"
"""


class ForkedProgram:
    """A running program, with the methods of Popen that tests use."""

    def __init__(self, connection: socket.socket):
        """Take over the connection that reports this program.

        Raises ChildProcessError if the process that forks is gone.
        """
        self.returncode: int | None = None
        self._connection, self._lock = connection, threading.Lock()
        self.pid = _read_number(connection)

    def poll(self) -> int | None:
        if self.returncode is None and _is_readable(self._connection, 0.0):
            self._read_end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, negative for a signal. Raises TimeoutExpired."""
        if self.returncode is None and not _is_readable(self._connection, timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return self._read_end()

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _read_end(self) -> int:
        with self._lock:
            if self.returncode is None:
                self.returncode = _read_number(self._connection)
            return self.returncode


class ForkingPython:
    """Starts programs by forking a process that has imported `modules`.

    environment: the variables that the imports see. Its programs end with it.
    executable: the command that forks the programs in FORKED and replaces itself with Python for any other.
    """

    def __init__(
        self,
        modules: Sequence[str],
        environment: Mapping[str, str],
        *,
        python: Path | str = sys.executable,
        forks_children: bool = False,
    ):
        """Start the process.

        forks_children: whether programs that forked programs start are forked too, by `executable`.
        """
        self.environment = dict(environment)
        self._folder = tempfile.TemporaryDirectory(prefix="gemtune-forking-")
        self._address = f"{self._folder.name}/socket"
        self.executable = Path(self._folder.name) / "python"
        self.executable.write_text(EXECUTABLE.format(python=python, script=__file__, address=self._address))
        self.executable.chmod(0o755)
        self._executable_of_programs = str(self.executable) if forks_children else ""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._address)
        listener.listen(64)
        self._lifetime, theirs = socket.socketpair()
        with theirs, listener:
            descriptors = (theirs.fileno(), listener.fileno())
            command = [str(python), "-P", __file__, "serve", *map(str, descriptors), *modules]
            self._process = subprocess.Popen(command, env=self.environment, pass_fds=descriptors)

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> ForkedProgram:
        """Start `python ARGUMENTS` in a session of its own.

        arguments: a module (`-P -m NAME`) or a script, and its arguments. output: file to which its output is appended.
        Raises ChildProcessError if the process that forks is gone.
        """
        with Path(os.devnull).open() as nothing, output.open("ab") as file:
            streams = (nothing.fileno(), file.fileno(), file.fileno())
            return _start(self._address, arguments, environment, streams, self._executable_of_programs)

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> tuple[int, str]:
        """Run `python ARGUMENTS` to its end.

        Returns its exit code and its output, which goes to the file `output`, a new one.
        """
        output.unlink(missing_ok=True)
        return self.start(arguments, environment, output).wait(600), output.read_text()

    def stop(self) -> None:
        self._lifetime.close()
        self._process.wait(60)
        self._folder.cleanup()


def _start(
    address: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    streams: tuple[int, int, int],
    executable: str,
) -> ForkedProgram:
    connection = socket.socket(socket.AF_UNIX)
    request = {
        "arguments": list(arguments),
        "environment": dict(environment),
        "folder": str(Path.cwd()),
        "executable": executable,
    }
    body = json.dumps(request).encode()
    try:
        connection.connect(address)
        socket.send_fds(connection, [len(body).to_bytes(8, "big")], streams)
        connection.sendall(body)
    except OSError as error:
        raise ChildProcessError(f"the process that forks has ended: {error}") from error
    return ForkedProgram(connection)


def _is_readable(connection: socket.socket, timeout: float | None) -> bool:
    return bool(select.select([connection], [], [], timeout)[0])


def _read_number(connection: socket.socket) -> int:
    """Read a number from the process that forks. Raises ChildProcessError."""
    content = _receive(connection, 8)
    if len(content) < 8:
        raise ChildProcessError("the process that forks has ended")
    return int.from_bytes(content, "big", signed=True)


def _receive(connection: socket.socket, size: int) -> bytes:
    """Receive `size` bytes, or fewer if the connection ends."""
    content = b""
    while len(content) < size and (part := connection.recv(size - len(content))):
        content += part
    return content


class _Server:
    """The process that forks: a program for each connection."""

    def __init__(self, lifetime: socket.socket, listener: socket.socket):
        self._lifetime, self._listener = lifetime, listener
        self._running: dict[int, socket.socket] = {}
        self._woken, self._waking = os.pipe()
        os.set_blocking(self._waking, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waking)

    def serve(self) -> None:
        """Fork for each connection.

        A program is killed when its connection is closed. Returns, with all programs killed, when the process that
        started this one closes its end or dies.
        """
        while True:
            sources: list[Any] = [self._lifetime, self._listener, self._woken, *self._running.values()]
            for ready in select.select(sources, [], [])[0]:
                if ready is self._lifetime:
                    for pid in self._running:
                        os.killpg(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
                    return
                if ready is self._listener:
                    self._fork(self._listener.accept()[0])
                elif ready == self._woken:
                    os.read(self._woken, 1024)
                    self._report_ended()
                else:
                    for pid in [pid for pid, connection in self._running.items() if connection is ready]:
                        os.killpg(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
                        self._running.pop(pid).close()

    def _fork(self, connection: socket.socket) -> None:
        header, streams, _, _ = socket.recv_fds(connection, 8, 3)
        size = int.from_bytes(header, "big")
        body = _receive(connection, size)
        if not body or len(body) < size:  # the process that asks was killed meanwhile
            connection.close()
            for descriptor in streams:
                os.close(descriptor)
            return
        in_session, left = os.pipe()
        pid = os.fork()
        if pid == 0:
            for inherited in (self._lifetime, self._listener, connection, *self._running.values()):
                inherited.close()
            signal.set_wakeup_fd(-1)
            os.close(self._woken)
            os.close(self._waking)
            _become(json.loads(body), streams, left)
        for descriptor in (left, *streams):
            os.close(descriptor)
        os.read(in_session, 1)  # returns once the child has its session, so that its group can be killed
        os.close(in_session)
        self._running[pid] = connection
        _send(connection, pid)

    def _report_ended(self) -> None:
        for pid, connection in list(self._running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                _send(connection, os.waitstatus_to_exitcode(status))
                self._running.pop(pid).close()


def _send(connection: socket.socket, number: int) -> None:
    try:
        connection.sendall(number.to_bytes(8, "big", signed=True))
    except BrokenPipeError:
        return  # nobody waits for the program any more; it is killed when that is noticed


def _become(request: dict[str, Any], streams: Sequence[int], left: int) -> NoReturn:
    """Run the module of a request as the program of this process.

    streams: its standard input, output and errors. left: closed once this process has a session of its own.
    """
    import runpy

    os.setsid()
    os.close(left)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.executable = request["executable"] or sys.executable
    for source, target in zip(streams, (0, 1, 2), strict=True):
        os.dup2(source, target)
        os.close(source)
    arguments = [argument for argument in request["arguments"] if argument != "-P"]
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")
    sys.exit(0)


def _run(address: str, arguments: Sequence[str]) -> NoReturn:
    """Be the process of a forked program, or replace this one with Python."""
    if arguments[:2] != ["-P", "-m"] or arguments[2] not in FORKED:
        # gemtune.process.parent_death has the kernel end this process with its parent, before it starts the program.
        isolated = arguments[:2] == ["-I", "-S"] and Path(arguments[2]).name == "parent_death.py"
        if isolated and arguments[5:7] == ["-P", "-m"] and arguments[7] in FORKED:
            arguments = [*arguments[:5], "-I", "-S", __file__, "run", address, *arguments[5:]]
        os.execv(sys.executable, [sys.executable, *arguments])
    executable = str(Path(address).with_name("python"))
    program = _start(address, arguments, os.environ, (0, 1, 2), executable)

    def pass_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(program.pid, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    code = program.wait()
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def main(role: str, *arguments: str) -> None:
    """Serve with the modules that are named, or run a program."""
    if role == "run":
        _run(arguments[0], list(arguments[1:]))
    import gc
    import importlib

    lifetime, listener, *modules = arguments
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    _Server(socket.socket(fileno=int(lifetime)), socket.socket(fileno=int(listener))).serve()
    os._exit(0)  # taking the libraries down takes seconds


if __name__ == "__main__":
    main(*sys.argv[1:])
