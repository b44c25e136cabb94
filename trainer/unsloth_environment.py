"""`python -m trainer.unsloth_environment`: makes the environment that unsloth lives in, or repairs it, and prints its
interpreter.

unsloth changes the packages it is imported beside, and parts of it are under other licences (AGPL-3.0, LGPL-3.0), so it
is no dependency of the trainer. Its releases also take older versions of transformers, TRL and datasets than the
trainer has. The environment is a layer over this one, outside the checkout: the packages of `unsloth.txt` are its own
and go before the trainer's; torch and everything else are those that the trainer has. What only a GPU uses (triton,
xformers, …) is left out; there, the extra `unsloth` of pyproject.toml belongs into an environment with a CUDA build of
torch instead.
"""

from __future__ import annotations

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
    """The environment's Python, made if it is not there yet or not whole any more. Raises CalledProcessError when pip
    cannot get something.

    Whoever comes first makes it; others wait.
    """
    beneath = sysconfig.get_path("purelib")
    recipe = hashlib.sha256(PINS.read_bytes() + Path(__file__).read_bytes() + beneath.encode()).hexdigest()
    cache = cache_folder()
    folder = cache / f"unsloth-{recipe[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "unsloth.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (fault := fault_of(folder)) is not None:
            print(f"making {folder}: {fault}", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, beneath)
    return folder / "bin" / "python"


def fault_of(folder: Path) -> str | None:
    """Say what an environment lacks: its interpreter, a package of `unsloth.txt`, a file of one, or torch beneath it.
    None: nothing."""
    if not folder.exists():
        return "it is not there yet"
    own = {_plain(found.name or ""): found for found in distributions(path=[*map(str, _packages(folder))])}
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
    sizes = {path: path.size for path in package.files or () if "__pycache__" not in path.parts}
    for path, size in sizes.items():
        place = Path(str(package.locate_file(path)))
        if not place.is_file() or place.stat().st_size != (place.stat().st_size if size is None else size):
            return f"has no whole {path}"
    return None


def _make(folder: Path, beneath: str) -> None:
    def run(*command: str) -> None:
        subprocess.run([sys.executable, "-m", *command], check=True, stdout=sys.stderr)

    run("venv", "--without-pip", str(folder))
    python = str(folder / "bin" / "python")
    run("pip", "--python", python, "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", str(PINS))
    (packages,) = _packages(folder)
    # addsitedir, unlike a bare path, also reads what editable installs leave there. It appends: packages of the layer
    # itself are found first.
    (packages / "beneath.pth").write_text(f"import site; site.addsitedir({beneath!r})\n")


def _packages(folder: Path) -> list[Path]:
    return [*(folder / "lib").glob("python*/site-packages")]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def main() -> int:
    """Print the variable to set; return the exit code."""
    try:
        print(f"export GEMTUNE_UNSLOTH_PYTHON={interpreter()}")
    except subprocess.CalledProcessError as error:
        print(f"the environment of unsloth was not made: see above why {error.cmd[2]} failed", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
