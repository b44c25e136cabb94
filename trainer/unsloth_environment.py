"""`python -m trainer.unsloth_environment`: makes the environment that unsloth lives in, and prints its interpreter.

unsloth changes the packages it is imported beside, and parts of it are under other licences (AGPL-3.0, LGPL-3.0), so it
is no dependency of the trainer. The environment is a layer over this one, outside the checkout: of its own it has only
the packages of `unsloth.txt`; torch and everything else are those that the trainer has. What only a GPU uses (triton,
xformers, …) is left out; there, the extra `unsloth` of pyproject.toml belongs into an environment with a CUDA build of
torch instead.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from gemtune.settings import cache_folder

PINS = Path(__file__).parent / "unsloth.txt"


def interpreter() -> Path:
    """The environment's Python, made if it is not there yet. Raises CalledProcessError when pip cannot get something.

    Whoever comes first makes it; others wait.
    """
    beneath = sysconfig.get_path("purelib")
    recipe = hashlib.sha256(PINS.read_bytes() + Path(__file__).read_bytes() + beneath.encode()).hexdigest()
    cache = cache_folder()
    folder = cache / f"unsloth-{recipe[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "unsloth.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, beneath)
            (folder / "whole").touch()
    return folder / "bin" / "python"


def _make(folder: Path, beneath: str) -> None:
    def run(*command: str) -> None:
        subprocess.run([sys.executable, "-m", *command], check=True, stdout=sys.stderr)

    run("venv", "--without-pip", str(folder))
    python = str(folder / "bin" / "python")
    run("pip", "--python", python, "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", str(PINS))
    (packages,) = (folder / "lib").glob("python*/site-packages")
    # addsitedir, unlike a bare path, also reads what editable installs leave there.
    (packages / "beneath.pth").write_text(f"import site; site.addsitedir({beneath!r})\n")


if __name__ == "__main__":
    print(f"export GEMTUNE_UNSLOTH_PYTHON={interpreter()}")
