"""Calls of gcloud and terraform.

Their output goes to the terminal, unless the caller reads it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
INSTALLATION = {
    "terraform": "https://developer.hashicorp.com/terraform/install (1.9 or later)",
    "gcloud": "https://cloud.google.com/sdk/docs/install",
}


class Refused(Exception):
    """Raised when a command stops; its text is a sentence for the user.

    exit_code: 2 if nothing was changed, 1 if a tool or the service failed.
    """

    def __init__(self, message: str, *, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


def need(*programs: str) -> None:
    """Raise Refused if a program is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            raise Refused(f"{program} is not installed: {INSTALLATION[program]}")


def run(*command: str) -> None:
    """Run a command. Raises Refused if it fails."""
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code != 0:
        raise Refused(f"`{' '.join(command[:3])} …` failed with code {code}", exit_code=1)


def read(*command: str) -> str:
    """Run a command and return its standard output.

    Its standard error goes to the terminal. Raises Refused if it fails.
    """
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode != 0:
        raise Refused(f"`{' '.join(command[:3])} …` failed with code {ran.returncode}", exit_code=1)
    return ran.stdout.strip()


def terraform(*arguments: str) -> None:
    """Run Terraform in terraform/. Raises Refused if it fails."""
    run("terraform", "-chdir=terraform", *arguments)


def outputs() -> dict[str, Any]:
    """Return Terraform's outputs by name; {} before the first apply."""
    described = json.loads(read("terraform", "-chdir=terraform", "output", "-json") or "{}")
    return {name: output["value"] for name, output in described.items()}
