"""Process of the trainer that runs a check on this machine."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from gemtune.checks.report import CheckReport
from gemtune.checks.task import REPORT, TASK, CheckTask
from gemtune.cli.connection.text import is_redrawn
from gemtune.errors import GemtuneError
from gemtune.process import parent_death

if TYPE_CHECKING:
    from collections.abc import Callable

# Environment of the process: nothing of it is meant for the terminal.
ENVIRONMENT = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
OUTPUT_SHOWN = 2000
# Mode of a new folder, whose files quote rows.
PRIVATE = 0o700


class CheckCrashed(GemtuneError):
    """Raised when the process of a check ends without a report."""

    code = "check_crashed"

    def __init__(self, output: str):
        hint = "if it ended for lack of memory, close other programs; otherwise report it with this output"
        super().__init__(f"the check ended without a report: {output.strip()[-OUTPUT_SHOWN:]}", hint=hint)


class CheckFolderInUse(GemtuneError):
    """Raised when another check writes to the same folder."""

    code = "check_folder_in_use"

    def __init__(self, folder: Path):
        hint = "wait until it has ended, or choose another folder with --output"
        super().__init__(f"another check is writing its results to {folder}", hint=hint)


def run(task: CheckTask, folder: Path, *, token: str | None, quiet: bool, cwd: Path | None = None) -> CheckReport:
    """Run a check in a folder, and return its report.

    The folder is created; a report of an earlier check in it is replaced. token: for the Hub, instead of the user's
    own. quiet: show no progress. cwd: current folder of the process, if not that of this one. Raises CheckCrashed,
    CheckFolderInUse.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
    with _locked(folder / TASK) as file:
        (folder / REPORT).unlink(missing_ok=True)
        file.truncate(0)
        file.write(task.model_dump_json())
        file.flush()
        return _run(folder, token=token, quiet=quiet, cwd=cwd)


@contextmanager
def _locked(task: Path) -> Iterator[IO[str]]:
    """Open the file with a check's task, and lock it until the block ends.

    The operating system releases the lock at the end of the process, even after a crash. Raises CheckFolderInUse if
    another process holds it.
    """
    with task.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckFolderInUse(task.parent) from None
        yield file


def _run(folder: Path, *, token: str | None, quiet: bool, cwd: Path | None) -> CheckReport:
    """Run the check of a folder's task, and return its report.

    Raises CheckCrashed.
    """
    environment = os.environ | ENVIRONMENT | ({} if token is None else {"HF_TOKEN": token})
    with tempfile.TemporaryFile() as errors:  # a pipe that nobody reads would fill up, and stop the process
        process = subprocess.Popen(
            parent_death.command(["-P", "-m", "trainer", "check", str(folder.absolute())], signal.SIGKILL),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            env=environment,
            cwd=cwd,
        )
        assert process.stdout is not None
        try:
            with _progress(quiet) as show:
                for line in process.stdout:
                    show(line.strip())
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        errors.seek(0)
        output = errors.read().decode(errors="replace")
    if not (folder / REPORT).exists():
        raise CheckCrashed(output)
    return CheckReport.model_validate_json((folder / REPORT).read_bytes())


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show the number of rows so far, in a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not is_redrawn(console):
        yield lambda rows: None
        return
    with console.status("reading the tokenizer…") as status:
        yield lambda rows: status.update(f"tokenizing, {rows} rows so far…")
