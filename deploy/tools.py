"""Calls of other programs.

Their output goes to the terminal, unless the caller reads it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

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


class Failed(Refused):
    """Raised when a program fails. errors: what it wrote to standard error."""

    def __init__(self, command: tuple[str, ...], code: int, errors: str = ""):
        super().__init__(f"`{' '.join(command[:3])} …` failed with code {code}", exit_code=1)
        self.errors = errors


def need(*programs: str) -> None:
    """Raise Refused if a program is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            raise Refused(f"{program} is not installed: {INSTALLATION[program]}")


def run(*command: str, environment: Mapping[str, str] | None = None) -> None:
    """Run a command and show its output.

    Raises Failed with its standard error. Standard output stays the terminal's, so that the command can ask there.
    """
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, errors="replace")
    assert process.stderr is not None
    errors = []
    for line in process.stderr:
        sys.stderr.write(line)
        sys.stderr.flush()
        errors.append(line)
    if process.wait() != 0:
        raise Failed(command, process.returncode, "".join(errors))


def read(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command and return its standard output.

    It cannot ask anything, because a question would not be seen: gcloud takes its own default answers. Raises Failed
    with the standard error, which is shown too.
    """
    unasked = {**(os.environ if environment is None else environment), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    ran = subprocess.run(
        command, cwd=ROOT, env=unasked, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    sys.stderr.write(ran.stderr)
    if ran.returncode != 0:
        raise Failed(command, ran.returncode, ran.stderr)
    return ran.stdout.strip()
