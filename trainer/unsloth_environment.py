"""Separate environment for unsloth.

`python -m trainer.unsloth_environment` creates or repairs it, and prints its interpreter. unsloth is not a dependency
of the trainer because it changes the packages that it is imported with, parts of it are under AGPL-3.0 and LGPL-3.0,
and its releases need older versions of transformers, TRL and datasets. The environment is a layer over this one,
outside the checkout: the packages of `unsloth.txt` take precedence, and torch and everything else are the trainer's.
Packages that only a GPU uses (triton, xformers, …) are left out. On a machine with a GPU, install the extra `unsloth`
of pyproject.toml into an environment with a CUDA build of torch instead.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import Distribution, distributions
from pathlib import Path

from gemtune.settings import cache_folder

PINS = Path(__file__).parent / "unsloth.txt"


def interpreter() -> Path:
    """Return the environment's Python; create the environment if necessary.

    A damaged environment is replaced. While another process creates it, this one waits. Raises CalledProcessError if
    pip cannot install a package.
    """
    beneath = sysconfig.get_path("purelib")
    recipe = hashlib.sha256(PINS.read_bytes() + Path(__file__).read_bytes() + beneath.encode()).hexdigest()
    cache = cache_folder()
    folder = cache / f"unsloth-{recipe[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "unsloth.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (fault := fault_of(folder)) is not None:
            print(f"creating {folder}: {fault}", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
            _create(folder, beneath)
    return folder / "bin" / "python"


def fault_of(folder: Path) -> str | None:
    """Return what is wrong with an environment, or None.

    It may lack its interpreter, a package of `unsloth.txt`, a file of one, or torch of the environment beneath.
    """
    if not folder.exists():
        return "it does not exist yet"
    own = {_plain(package.name or ""): package for package in distributions(path=[*map(str, _packages(folder))])}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", PINS.read_text(), re.MULTILINE):
        fault = _fault_of_package(own.get(_plain(name)), version)
        if fault is not None:
            return f"{name} {fault}"
    finds_torch = "import importlib.util as util, sys; sys.exit(util.find_spec('torch') is None)"
    try:
        ended = subprocess.run([folder / "bin" / "python", "-c", finds_torch], check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        return f"its interpreter does not run ({error.strerror})"
    return None if ended.returncode == 0 else "it does not find torch"


def _fault_of_package(package: Distribution | None, version: str) -> str | None:
    if package is None:
        return "is not installed"
    if package.version != version:
        return f"is {package.version}, not {version}"
    record = package.read_text("RECORD")
    if record is None:  # pip writes it last
        return "lacks RECORD, which lists its files"
    # Distribution.files leaves out files that are missing, since Python 3.12.
    for path, _, size in csv.reader(record.splitlines()):
        place = Path(str(package.locate_file(path)))
        if "__pycache__" in place.parts:
            continue
        if not place.is_file() or (size and place.stat().st_size != int(size)):
            return f"lacks {path}, or a part of it"
    return None


def _create(folder: Path, beneath: str) -> None:
    def run(*command: str) -> None:
        subprocess.run([sys.executable, "-m", *command], check=True, stdout=sys.stderr)

    run("venv", "--without-pip", str(folder))
    python = str(folder / "bin" / "python")
    run("pip", "--python", python, "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", str(PINS))
    (packages,) = _packages(folder)
    # addsitedir also processes the .pth files of editable installs. It appends to sys.path, so the layer's own packages
    # take precedence.
    (packages / "beneath.pth").write_text(f"import site; site.addsitedir({beneath!r})\n")


def _packages(folder: Path) -> list[Path]:
    return [*(folder / "lib").glob("python*/site-packages")]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def main() -> int:
    """Print the variable to set, and return the exit code."""
    try:
        print(f"export GEMTUNE_UNSLOTH_PYTHON={interpreter()}")
    except subprocess.CalledProcessError as error:
        print(f"the environment of unsloth was not created: see above why {error.cmd[2]} failed", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
