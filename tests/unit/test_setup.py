"""The scripts of setup/: choice of Python and of torch, and what they install."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# All programs that the scripts call besides Python. Without /usr/bin on the PATH only the Pythons of a test exist.
PROGRAMS = ("cat", "grep", "make", "mkdir", "rm", "sed", "sh", "test", "touch", "uname")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Return a folder that serves as the whole PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in PROGRAMS:
        path = shutil.which(name)
        assert path is not None
        (folder / name).symlink_to(path)
    return folder


@pytest.fixture
def run(programs: Path, tmp_path: Path) -> Run:
    """Return a function that runs a command with that PATH and variables."""

    def call(*command: object, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(programs), "HOME": str(tmp_path)} | variables
        words = [str(word) for word in command]
        return subprocess.run(words, capture_output=True, text=True, env=environment, cwd=cwd, check=False)

    return call


def add_program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def add_python(folder: Path, name: str, version: str) -> Path:
    """Add a program that answers every call with this version of Python."""
    return add_program(folder, name, f"echo '{version}'")


@pytest.mark.parametrize(
    ("pythons", "expected"),
    [
        ({"python3": "3.13.5"}, "python3"),
        ({"python3": "3.11.2", "python3.14": "3.14.1"}, "python3"),
        ({"python3": "3.9.18", "python3.12": "3.12.1", "python3.11": "3.11.7"}, "python3.12"),
        ({"python3": "3.15.0", "python3.14": "3.14.1"}, "python3.14"),
        ({"python3": "PyPy 3.11.13", "python3.11": "3.11.7"}, "python3.11"),
        ({"python3.13": "3.13.0"}, "python3.13"),
    ],
)
def test_the_first_suitable_python_is_chosen(pythons: dict[str, str], expected: str, programs: Path, run: Run) -> None:
    for name, version in pythons.items():
        add_python(programs, name, version)
    assert run("setup/interpreter.sh").stdout == f"{expected}\n"


def test_a_python_that_does_not_run_is_skipped(programs: Path, run: Run) -> None:
    """Skip shims like those of pyenv, which are on the PATH for every version."""
    add_program(programs, "python3", "echo 'command not found' >&2; exit 127")
    add_python(programs, "python3.12", "3.12.1")
    assert run("setup/interpreter.sh").stdout == "python3.12\n"


def test_the_python_that_the_user_names_is_used_or_refused(programs: Path, run: Run) -> None:
    add_python(programs, "python3", "3.13.5")
    newer = add_python(programs, "mine", "3.14.0")
    old = add_python(programs, "old", "3.10.4")
    assert run("setup/interpreter.sh", PYTHON=str(newer)).stdout == f"{newer}\n"
    refused = run("setup/interpreter.sh", PYTHON=str(old))
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert f"{old}: 3.10.4" in refused.stderr
    assert "python3:" not in refused.stderr


def test_without_a_suitable_python_the_error_lists_installed_and_accepted_versions(programs: Path, run: Run) -> None:
    add_python(programs, "python3", "3.9.2")
    refused = run("setup/interpreter.sh")
    assert refused.returncode == 1
    assert "Python 3.11, 3.12, 3.13 or 3.14" in refused.stderr
    assert "python3: 3.9.2" in refused.stderr
    for minor in (11, 12, 13, 14):
        assert f"python3.{minor}: does not run here" in refused.stderr


def test_the_accepted_versions_are_those_that_the_project_requires(programs: Path, run: Run) -> None:
    required = SpecifierSet(PROJECT["requires-python"])
    accepted = set()
    for minor in range(8, 25):
        path = add_python(programs, f"any{minor}", f"3.{minor}.1")
        if run("setup/interpreter.sh", PYTHON=str(path)).returncode == 0:
            accepted.add(minor)
    assert accepted == {minor for minor in range(8, 25) if required.contains(f"3.{minor}.1")}
    classifiers = {f"Programming Language :: Python :: 3.{minor}" for minor in accepted}
    assert classifiers == {name for name in PROJECT["classifiers"] if name.startswith("Programming Language ::")}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the URL of an empty package index, and its folder for torch."""
    packages = tmp_path / "index" / "torch"
    packages.mkdir(parents=True)
    handler = partial(QuietHandler, directory=str(packages.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", packages
    server.shutdown()
    thread.join()
    server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def add_torch(packages: Path, version: str) -> None:
    name = f"torch-{version}-py3-none-any.whl"
    with zipfile.ZipFile(packages / name, "w") as wheel:
        wheel.writestr(
            f"torch-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        )


@pytest.fixture
def machine(programs: Path, run: Run) -> Callable[..., tuple[str, str]]:
    """Return a function that asks for the index of torch 2.13.0 on Linux.

    It returns the index and the reason for it.
    """
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA GPU, and the script sees it")
    add_program(programs, "uname", "echo Linux")

    def ask(cpu_index: str, **variables: str) -> tuple[str, str]:
        completed = run("setup/torch_index.sh", sys.executable, "torch==2.13.0", cpu_index, **variables)
        assert completed.returncode == 0
        return completed.stdout.strip(), completed.stderr

    return ask


def test_without_a_gpu_torch_comes_from_the_index_of_cpu_builds(
    machine: Callable[..., tuple[str, str]], index: tuple[str, Path]
) -> None:
    url, packages = index
    add_torch(packages, "2.12.0+cpu")
    add_torch(packages, "2.13.0+cpu")
    assert machine(url)[0] == url


def test_settings_of_pip_do_not_count_for_that_index(
    machine: Callable[..., tuple[str, str]], index: tuple[str, Path], tmp_path: Path
) -> None:
    """Ignore torch in other places, or pip would wait for the index in vain."""
    url, _ = index
    elsewhere = tmp_path / "wheels"
    elsewhere.mkdir()
    add_torch(elsewhere, "2.13.0")
    chosen, reason = machine(url, PIP_FIND_LINKS=str(elsewhere))
    assert chosen == ""
    assert "has no torch==2.13.0 for this Python or cannot be reached" in reason


def test_an_index_with_another_version_or_out_of_reach_is_not_used(
    machine: Callable[..., tuple[str, str]], index: tuple[str, Path]
) -> None:
    url, packages = index
    add_torch(packages, "2.14.0+cpu")
    for cpu_index in (url, "http://127.0.0.1:9"):
        chosen, reason = machine(cpu_index)
        assert chosen == ""
        assert cpu_index in reason


def test_with_an_nvidia_gpu_torch_comes_from_the_usual_index(
    machine: Callable[..., tuple[str, str]], index: tuple[str, Path], programs: Path
) -> None:
    url, packages = index
    add_torch(packages, "2.13.0+cpu")
    add_program(programs, "nvidia-smi", "echo 'GPU 0: NVIDIA H200 (UUID: GPU-0)'")
    chosen, reason = machine(url)
    assert chosen == ""
    assert "NVIDIA GPU" in reason
    add_program(programs, "nvidia-smi", "echo 'No devices were found'; exit 6")
    assert machine(url)[0] == url


def test_elsewhere_than_on_linux_torch_comes_from_the_usual_index(
    machine: Callable[..., tuple[str, str]], index: tuple[str, Path], programs: Path
) -> None:
    url, packages = index
    add_torch(packages, "2.13.0+cpu")
    add_program(programs, "uname", "echo Darwin")
    assert machine(url)[0] == ""


def test_the_index_that_the_user_names_is_used(machine: Callable[..., tuple[str, str]], programs: Path) -> None:
    add_program(programs, "nvidia-smi", "echo 'GPU 0: NVIDIA H200 (UUID: GPU-0)'")
    assert machine("http://127.0.0.1:9", TORCH_INDEX="https://example.com/cu126")[0] == "https://example.com/cu126"


# A fake Python that creates environments with itself as their Python, and records its arguments.
RECORDER = """
echo "${0##*/} $*" >> "$RECORD"
case "$*" in
    *"platform"*) echo 3.13.5 ;;
    *"sys.version_info"*) echo 3.13 ;;
    *"import venv, ensurepip"*) [ -z "${WITHOUT_VENV:-}" ] ;;
    *"import virtualenv"*) exit 1 ;;
    *"import timm"*) [ -z "${FOREIGN:-}" ] || { echo "operator torchvision::nms does not exist" >&2; exit 1; } ;;
    *"install"*" torchvision=="*) [ -z "${OFFLINE:-}" ] ;;
    "-m venv .venv") mkdir .venv .venv/bin; cat "$0" > .venv/bin/python; chmod +x .venv/bin/python ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path, programs: Path) -> Path:
    """Return a copy of the files that setup/ reads, with a recording python3."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, folder / name)
    shutil.copytree(ROOT / "setup", folder / "setup")
    (programs / "chmod").symlink_to(str(shutil.which("chmod")))
    add_program(programs, "python3", RECORDER)
    return folder


@pytest.fixture
def make(checkout: Path, run: Run, tmp_path: Path) -> Callable[..., tuple[str, list[str]]]:
    """Return a function that runs make on the copy.

    It returns the output and the calls of pip.
    """
    record = tmp_path / "record"

    def call(*targets: str, **variables: str) -> tuple[str, list[str]]:
        record.write_text("")
        variables = {"TORCH_INDEX": "https://example.com/cpu", "RECORD": str(record)} | variables
        completed = run("make", *targets, cwd=checkout, **variables)
        calls = [line for line in record.read_text().splitlines() if "pip install" in line]
        return completed.stdout + completed.stderr, calls

    return call


def lists_of(calls: list[str]) -> list[str]:
    """Return the names of the lists of packages that pip was called with."""
    return re.findall(r"setup/locked/(\w+)\.txt", "\n".join(calls))


def test_torch_is_installed_first_and_the_rest_by_hash(
    make: Callable[..., tuple[str, list[str]]],
) -> None:
    output, (torch, packages, cuda, gemtune) = make("setup")
    assert "creating .venv with python3, Python 3.13.5" in output
    assert torch.endswith(" --no-deps --index-url https://example.com/cpu torch==2.13.0")
    assert packages.endswith(" --no-deps --require-hashes --requirement setup/locked/tests.txt")
    assert cuda.endswith(" --constraint constraints.txt torch==2.13.0")
    assert gemtune.endswith(" --no-deps --no-build-isolation --editable .")
    assert "index" not in packages + cuda + gemtune


def test_torchvision_comes_from_the_index_of_torch_and_timm_by_hash(
    make: Callable[..., tuple[str, list[str]]],
) -> None:
    make("setup")
    _, (timm, torchvision) = make("timm")
    assert re.search(r" --no-deps --index-url https://example.com/cpu torchvision==[0-9.]+$", torchvision)
    assert timm.endswith(" --no-deps --require-hashes --requirement trainer/timm.txt")


def test_a_torchvision_that_cannot_be_imported_is_removed_again(
    make: Callable[..., tuple[str, list[str]]], tmp_path: Path
) -> None:
    make("setup")
    output, _ = make("timm", FOREIGN="yes")
    assert "operator torchvision::nms does not exist" in output
    assert "is removed again" in output
    assert "pip uninstall --quiet --yes timm torchvision" in (tmp_path / "record").read_text()


def test_a_timm_whose_torchvision_cannot_be_downloaded_is_removed_again(
    make: Callable[..., tuple[str, list[str]]], tmp_path: Path
) -> None:
    """Half of the packages would fail transformers when it imports them."""
    make("setup")
    make("timm")
    assert "pip uninstall" not in (tmp_path / "record").read_text()
    make("timm", OFFLINE="yes")
    assert "pip uninstall --quiet --yes timm torchvision" in (tmp_path / "record").read_text()


def test_the_demo_needs_no_packages_of_developers(make: Callable[..., tuple[str, list[str]]]) -> None:
    assert lists_of(make(".venv/.service")[1]) == ["service"]
    assert lists_of(make(".venv/.demo")[1]) == ["demo"]
    assert lists_of(make(".venv/.tests")[1]) == ["tests"]


def test_packages_are_installed_once_until_the_constraints_change(
    make: Callable[..., tuple[str, list[str]]], checkout: Path
) -> None:
    make("setup")
    for target in (".venv/.service", ".venv/.demo", ".venv/.tests"):
        assert make(target)[1] == []
    later = (checkout / ".venv" / ".tests").stat().st_mtime + 10
    os.utime(checkout / "constraints.txt", (later, later))
    assert make(".venv/.demo")[1] != []


def test_an_environment_whose_python_is_gone_is_recreated(
    make: Callable[..., tuple[str, list[str]]], checkout: Path
) -> None:
    make("setup")
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/usr/bin/python3.0")
    output, calls = make(".venv/.service")
    assert "creating .venv" in output
    assert lists_of(calls) == ["service"]


def test_a_python_that_cannot_create_environments_is_reported_in_a_sentence(
    make: Callable[..., tuple[str, list[str]]], checkout: Path
) -> None:
    output, calls = make("setup", WITHOUT_VENV="yes")
    assert "apt-get install python3-venv" in output
    assert calls == []
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("target", ["plan", "infra"])
def test_a_missing_terraform_is_reported_before_anything_is_installed(
    target: str, make: Callable[..., tuple[str, list[str]]], checkout: Path
) -> None:
    output, calls = make(target)
    assert "this needs Terraform 1.9 or later" in output
    assert calls == []
    assert not (checkout / ".venv").exists()
