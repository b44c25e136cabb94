"""Calls of gcloud and terraform: what they print is seen, unless it is asked for."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WHERE = {
    "terraform": "https://developer.hashicorp.com/terraform/install (1.9 or later)",
    "gcloud": "https://cloud.google.com/sdk/docs/install",
}


class Refused(Exception):
    """Says in a sentence why nothing, or nothing more, is done."""

    def __init__(self, message: str, *, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


def need(*programs: str) -> None:
    """Raises Refused when one of them is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            raise Refused(f"{program} is not installed: {WHERE[program]}")


def run(*command: str) -> None:
    """Raises Refused when it fails."""
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code != 0:
        raise Refused(f"`{' '.join(command[:3])} …` ended with {code}", exit_code=1)


def read(*command: str) -> str:
    """What a command prints. Raises Refused when it fails; what it complains of is seen."""
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode != 0:
        raise Refused(f"`{' '.join(command[:3])} …` ended with {ran.returncode}", exit_code=1)
    return ran.stdout.strip()


def terraform(*arguments: str) -> None:
    run("terraform", "-chdir=terraform", *arguments)


def outputs() -> dict[str, Any]:
    """The outputs of what is deployed, by name; empty before the first apply."""
    found = json.loads(read("terraform", "-chdir=terraform", "output", "-json") or "{}")
    return {name: output["value"] for name, output in found.items()}
