"""Forked programs have processes, arguments, variables and output."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemtune.process import parent_death
from tests import forking_python
from tests.forking_python import ForkingPython

SCRIPT = """
import os, sys
assert "fractions" in sys.modules
if "sleep" in sys.argv:
    import time
    print("sleeping", flush=True)
    time.sleep(600)
print(__name__, sys.argv[1:], os.environ["COLOUR"], os.getsid(0) == os.getpid())
sys.exit(len(sys.argv) - 1)
"""


@pytest.fixture(scope="module")
def forking() -> Iterator[ForkingPython]:
    forking = ForkingPython(["fractions"], os.environ)
    yield forking
    forking.stop()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def test_a_script_runs_as_the_program_of_its_own_process(forking: ForkingPython, script: Path, tmp_path: Path) -> None:
    environment = os.environ | {"COLOUR": "blue"}
    code, output = forking.run([str(script), "a", "b"], environment, tmp_path / "output")
    assert (code, output) == (2, "__main__ ['a', 'b'] blue True\n")


def test_a_module_runs_and_its_exception_is_printed(forking: ForkingPython, tmp_path: Path) -> None:
    code, output = forking.run(["-P", "-m", "json.tool", str(tmp_path / "nothing")], os.environ, tmp_path / "output")
    assert code != 0
    assert "No such file" in output


def test_programs_run_side_by_side_and_one_can_be_killed(forking: ForkingPython, script: Path, tmp_path: Path) -> None:
    environment = os.environ | {"COLOUR": "red"}
    first = forking.start([str(script), "sleep"], environment, tmp_path / "first")
    code, output = forking.run([str(script)], environment, tmp_path / "second")
    assert (code, output) == (0, "__main__ [] red True\n")
    assert first.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(0.0)
    first.kill()
    assert first.wait(60) == -signal.SIGKILL


def test_programs_end_with_the_process_that_forked_them(script: Path, tmp_path: Path) -> None:
    forking = ForkingPython(["fractions"], os.environ)
    program = forking.start([str(script), "sleep"], os.environ | {"COLOUR": "red"}, tmp_path / "output")
    forking.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(program.pid, 0)


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[ForkingPython]:
    """Yield a Python that has imported a program that is named `trainer`."""
    (tmp_path / "trainer.py").write_text(TRAINER)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    forking = ForkingPython(["fractions"], environment, forks_children=True)
    yield forking
    forking.stop()


TRAINER = """
import os, signal, subprocess, sys, time
assert "fractions" in sys.modules
def stop(number, frame):
    os.write(1, b"stopped\\n")  # the signal may interrupt a print, in which no other print is possible
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
print(os.getpid(), sys.argv[1:], os.environ["COLOUR"], os.getcwd(), flush=True)
match sys.argv[1]:
    case "echo":
        print(sys.stdin.read(), end="", flush=True)
    case "sleep":
        time.sleep(600)
    case "nested":
        sys.exit(subprocess.call([sys.executable, "-P", "-m", "trainer", "end"]))
    case "abort":
        os.abort()
sys.exit(5)
"""


def executed(forking: ForkingPython, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [str(forking.executable), *arguments]
    environment = os.environ | {"COLOUR": "green"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, cwd=folder, stdin=pipe, stdout=pipe, text=True)


def line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def test_the_executable_stands_for_a_forked_program(trainer: ForkingPython, tmp_path: Path) -> None:
    process = executed(trainer, tmp_path, "-P", "-m", "trainer", "end")
    pid, *rest = line(process)
    assert rest == ["['end']", "green", str(tmp_path)]
    assert int(pid) != process.pid
    assert process.wait(60) == 5
    assert executed(trainer, tmp_path, "-P", "-m", "trainer", "abort").wait(60) == -signal.SIGABRT


def test_a_forked_program_reads_the_input_of_the_process_that_stands_for_it(
    trainer: ForkingPython, tmp_path: Path
) -> None:
    output = executed(trainer, tmp_path, "-P", "-m", "trainer", "echo").communicate("one\ntwo\n", timeout=60)[0]
    assert output.splitlines()[1:] == ["one", "two"]


def test_programs_of_a_forked_program_are_forked_too(trainer: ForkingPython, tmp_path: Path) -> None:
    output = executed(trainer, tmp_path, "-P", "-m", "trainer", "nested").communicate(timeout=60)[0]
    assert [text.split()[1] for text in output.splitlines()] == ["['nested']", "['end']"]


def test_the_executable_passes_a_request_to_stop_on(trainer: ForkingPython, tmp_path: Path) -> None:
    process = executed(trainer, tmp_path, "-P", "-m", "trainer", "sleep")
    line(process)
    process.terminate()
    assert process.wait(60) == 3
    assert line(process) == ["stopped"]


def test_a_forked_program_ends_with_the_process_that_stands_for_it(trainer: ForkingPython, tmp_path: Path) -> None:
    process = executed(trainer, tmp_path, "-P", "-m", "trainer", "sleep")
    line(process)
    process.kill()
    assert process.stdout is not None
    assert process.stdout.read() == ""  # the program held it open


def test_a_forked_program_ends_with_the_parent_that_asked_for_it(
    trainer: ForkingPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(trainer.executable))
    command = parent_death.command(["-P", "-m", "trainer", "sleep"], signal.SIGKILL)
    assert command[0] == str(trainer.executable)
    starts = f"command = {command}; command[4] = str(os.getpid()); subprocess.Popen(command)"
    parent = executed(trainer, tmp_path, "-c", f"import os, signal, subprocess; {starts}; signal.pause()")
    assert line(parent)[1:] == ["['sleep']", "green", str(tmp_path)]
    parent.kill()
    assert parent.stdout is not None
    assert parent.stdout.read() == ""


def test_other_programs_are_run_by_python_itself(trainer: ForkingPython, tmp_path: Path) -> None:
    process = executed(trainer, tmp_path, "-c", "import sys; print('fractions' in sys.modules, sys.executable)")
    assert line(process) == ["False", sys.executable]


def test_the_programs_that_are_forked_exist() -> None:
    for name in forking_python.FORKED:
        assert importlib.util.find_spec(name) is not None
