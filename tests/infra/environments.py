"""Python environments for packages that conflict with ours, in the cache.

Each is made once per machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from gemtune.settings import cache_folder

CACHE = cache_folder()


class CommandFailed(RuntimeError):
    """Raised when a command fails. The text is the command and its output."""


def cached(name: str, recipe: Sequence[str], make: Callable[[Path], None]) -> Path:
    """Return a folder in the cache, filled by `make` if it is new.

    Another recipe gives another folder.
    """
    folder = CACHE / f"{name}-{hashlib.sha256(chr(0).join(recipe).encode()).hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:  # an environment contains its own path, so it cannot be moved
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "ready").touch()
    return folder


def make_environment(folder: Path, requirements: Path, *options: str) -> list[str]:
    """Create a bare environment and install a file of requirements.

    Returns the first words of a pip command for it.
    """
    venv.create(folder, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    pip += ["--python", str(folder / "bin" / "python")]
    run([*pip, "install", "--requirement", str(requirements), *options])
    return pip


def run(command: Sequence[str]) -> str:
    """Return the output of a command. Raises CommandFailed."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    if ran.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}\n{ran.stdout}{ran.stderr}")
    return ran.stdout
