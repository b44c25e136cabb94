"""The process with the model: `python -m trainer.answers`, and its lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gemtune.errors import StepError
from gemtune.process import parent_death

# Nothing that libraries report is meant for the terminal.
ENVIRONMENT = {"TRANSFORMERS_VERBOSITY": "error", "PYTHONUNBUFFERED": "1"}
Message = Mapping[str, Any]


@contextmanager
def start(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[AnswerProcess]:
    """Run a process that loads a model, until the block ends.

    Ctrl-C does not reach the process, since it has a session of its own. Its temporary files are removed with it.
    """
    # The process is killed at the end, so what it keeps in its temporary folder is removed here.
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory(prefix="gemtune-answers-") as temporary:
        process = subprocess.Popen(
            parent_death.command(["-P", "-m", "trainer.answers", *arguments], signal.SIGKILL),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | ENVIRONMENT | dict(environment) | {"TMPDIR": temporary},
            encoding="utf-8",
            start_new_session=True,
        )
        try:
            yield AnswerProcess(process, log)
        finally:
            process.kill()
            process.wait()


class AnswerProcess:
    """A process that loads a model and answers questions.

    log: its standard error.
    """

    def __init__(self, process: subprocess.Popen[str], log: IO[bytes]):
        self._process, self._log = process, log

    def wait_until_ready(self) -> Message:
        """Wait until the model is loaded; return its description.

        Raises StepError if it cannot be loaded.
        """
        return self._until("ready", lambda message: None)

    def ask(self, question: Mapping[str, Any], show: Callable[[str, bool], None]) -> Message:
        """Ask a question and return its end.

        show: called with each piece of the answer, and whether it is a thought. Ctrl-C ends the answer. Raises
        StepError.
        """
        self._send(question)
        while True:
            try:
                return self._until("end", lambda message: show(message["text"], message["is_thought"]))
            except KeyboardInterrupt:
                self._process.send_signal(signal.SIGINT)

    def rows(self, file: Path, columns: Mapping[str, str | None]) -> Iterator[Message]:
        """Yield the prompts of a file of rows; only the last one can be asked.

        columns: the `dataset_columns` of the training, for rows that have such columns. Raises StepError if the file
        cannot be read, or not to its end.
        """
        line: dict[str, Any] = {"file": str(file.absolute()), "columns": dict(columns)}
        while True:
            self._send(line)
            row = self._until("row", lambda message: None)
            if row["number"] is None:
                return
            yield row
            line = {"next": True}

    def _send(self, line: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._crash() from None

    def _until(self, kind: str, take: Callable[[Message], None]) -> Message:
        """Read lines up to one of a kind, and return that."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message: Message = json.loads(line)
            if message["type"] == "error":
                raise StepError(message["code"], message["message"], hint=message["hint"])
            if message["type"] == kind:
                return message
            take(message)
        raise self._crash()

    def _crash(self) -> StepError:
        """Return the error for a process that ended by itself."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            message = "the process with the model was killed, most likely because memory ran out"
            return StepError("out_of_memory", message, hint="use a machine with more memory, or a smaller export")
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        message = f"the process with the model ended with code {code}: {' '.join(lines[-3:])[-600:]}"
        return StepError("answering_failed", message, hint="try it again; if it fails again, it is a fault of gemtune")
