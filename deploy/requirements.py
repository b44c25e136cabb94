"""`python -m deploy.requirements`: what the functions, the trainer's images, those for GPUs and the environment of
unsloth install, from pyproject.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = "# Made from pyproject.toml by `make requirements`."
# Of what the functions need, the steps need the contract; they serve nothing and read no events.
SHARED = ("pydantic",)


def requirements() -> Mapping[Path, str]:
    """The files that they are kept in, and what belongs into each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed, extras = project["dependencies"], project["optional-dependencies"]
    shared = [line for line in needed if line.partition("==")[0] in SHARED]
    return {
        ROOT / "functions" / "requirements.txt": _lines([*needed, *extras["gcp"]]),
        ROOT / "trainer" / "requirements.txt": _lines([*shared, *extras["gcp"], *_pins(extras, "trainer")]),
        ROOT / "trainer" / "gpu.txt": _lines(extras["gpu"]),
        ROOT / "trainer" / "unsloth.txt": _lines([pin for pin in extras["unsloth"] if "==" in pin]),
    }


def _pins(extras: Mapping[str, list[str]], name: str) -> list[str]:
    """An extra's packages, and those of the extras that it includes, by name."""
    included = [line.removeprefix("gemtune[").removesuffix("]") for line in extras[name] if "==" not in line]
    pins = [line for line in extras[name] if "==" in line]
    return sorted([*pins, *(pin for extra in included for pin in _pins(extras, extra))])


def _lines(wanted: list[str]) -> str:
    return "\n".join([HEAD, *wanted]) + "\n"


if __name__ == "__main__":
    for path, content in requirements().items():
        path.write_text(content)
