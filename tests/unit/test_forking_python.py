"""Forked programs have processes, arguments, variables and output."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

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
