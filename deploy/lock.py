"""Lock files: every installed package, with its version and its files' hashes.

`python -m deploy.lock UV [--upgrade]` resolves pyproject.toml with the program uv and writes them all, for `make lock`.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
HEAD = "# Written by `make lock` from pyproject.toml."
# Each build of these is in an index of its own, with other hashes; the index is chosen at installation.
WITHOUT_HASHES = ("torch", "torchvision")


@dataclass(frozen=True, slots=True)
class Lock:
    """One lock file and the requirements it is resolved from.

    `packages` names the project's own requirements that are wanted, None all of them; `extras` are extras of
    pyproject.toml. Without `dependencies` the file has exactly the pins that pyproject.toml lists.
    """

    path: Path
    extras: tuple[str, ...]
    packages: tuple[str, ...] | None = None
    dependencies: bool = True

    def requirements(self) -> list[str]:
        """Return the pins of pyproject.toml that this file starts from."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        own = [pin for pin in project["dependencies"] if self.packages is None or _name(pin) in self.packages]
        return sorted({*own, *(pin for extra in self.extras for pin in _extra(project, extra, self.dependencies))})


SERVICE = ("embedded", "trainer", "cpu")
DEMO = (*SERVICE, "demo")
TESTS = (*DEMO, "gcp", "dev")
LOCKS = (
    Lock(ROOT / "setup" / "locked" / "service.txt", SERVICE),
    Lock(ROOT / "setup" / "locked" / "demo.txt", DEMO),
    Lock(ROOT / "setup" / "locked" / "tests.txt", TESTS),
    Lock(ROOT / "functions" / "requirements.txt", ("gcp",)),
    # The steps serve nothing and read no events, so of the functions' requirements they need only the request contract.
    Lock(ROOT / "trainer" / "requirements.txt", ("trainer", "gcp"), packages=("pydantic",)),
    Lock(ROOT / "trainer" / "gpu.txt", ("gpu",), packages=(), dependencies=False),
    Lock(ROOT / "trainer" / "timm.txt", ("timm",), packages=(), dependencies=False),
    # A layer over the trainer's environment, which has what every training needs.
    Lock(ROOT / "trainer" / "unsloth.txt", ("unsloth",), packages=(), dependencies=False),
)


def _extra(project: dict[str, dict[str, list[str]]], name: str, with_included: bool) -> list[str]:
    """Return the pins of an extra and, if asked, of extras in it."""
    lines = project["optional-dependencies"][name]
    included = [line.removeprefix("gemtune[").removesuffix("]") for line in lines if line.startswith("gemtune[")]
    pins = [line for line in lines if not line.startswith("gemtune[")]
    return [*pins, *(pin for extra in included if with_included for pin in _extra(project, extra, with_included))]


def _name(pin: str) -> str:
    return pin.partition("==")[0]


def write_locks(uv: str, *, upgrade: bool) -> None:
    """Resolve constraints.txt, then write each lock file at its versions.

    Versions that constraints.txt has and that still fit are kept, unless `upgrade` asks for the newest. Raises
    CalledProcessError where uv finds no versions that fit together.
    """
    _resolve(uv, Lock(CONSTRAINTS, TESTS), "--upgrade" if upgrade else "--no-upgrade")
    for lock in LOCKS:
        options = ["--generate-hashes", "--upgrade"]
        options += [option for name in WITHOUT_HASHES for option in ("--no-emit-package", name)]
        options += ["--constraints", str(CONSTRAINTS)] if lock.dependencies else ["--no-deps"]
        _resolve(uv, lock, *options)


def _resolve(uv: str, lock: Lock, *options: str) -> None:
    """Write a lock file in pip's format.

    It holds for every system and every Python from 3.11 on.
    """
    fixed = ("--quiet", "--universal", "--python-version", "3.11", "--no-header", "--no-annotate")
    with TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join(lock.requirements()) + "\n")
        command = (uv, "pip", "compile", *fixed, *options, "--output-file", str(lock.path), str(source))
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    lock.path.write_text(f"{HEAD}\n{lock.path.read_text()}")


if __name__ == "__main__":
    write_locks(sys.argv[1], upgrade="--upgrade" in sys.argv[2:])
