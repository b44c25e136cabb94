"""Python environments beside ours, for what conflicts with it, in the cache: made once a machine."""

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
    """A command ended with an error; the text is the command and what it said."""


def made_once(name: str, recipe: Sequence[str], make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills, in the cache; another recipe is another folder."""
    folder = CACHE / f"{name}-{hashlib.sha256(chr(0).join(recipe).encode()).hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:  # an environment knows its own path, so it is made in place
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "ready").touch()
    return folder


def make_environment(folder: Path, requirements: Path, *options: str) -> list[str]:
    """A bare environment with what a file asks for; return the start of a pip command for it."""
    venv.create(folder, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    pip += ["--python", str(folder / "bin" / "python")]
    run([*pip, "install", "--requirement", str(requirements), *options])
    return pip


def run(command: Sequence[str]) -> str:
    """Return what a command says. Raises CommandFailed."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    if ran.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}\n{ran.stdout}{ran.stderr}")
    return ran.stdout
