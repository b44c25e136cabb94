"""Messages of commands on standard error: whole words in any terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

# Each with an error of another kind: of gemtune, of a file, of a wrong use, of a service, of a request.
COMMANDS = (
    ["--url", "http://127.0.0.1:9", "jobs"],
    ["data", "check", "rows.jsonl"],
    ["data", "check", "rows.jsonl", "--model", "no such model", "--epochs", "0"],
    ["try", "some-job", "prompt", "--seed", "7"],
    ["try", "some-job", "prompt", "--checkpoint", "4", "--format", "gguf"],
    ["config", "use", "absent"],
)
COLUMNS = 40  # fewer than any width that a program would assume
RESETS = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    return tmp_path


def _run(arguments: list[str], home: Path, stderr: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    subprocess.run(
        [sys.executable, "-P", "-c", "from gemtune.cli import main; main()", *arguments],
        cwd=home,
        env=environment | {"GEMTUNE_HOME": str(home / "home"), "XDG_CONFIG_HOME": str(home / "config")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
    )


def _in_terminal(arguments: list[str], home: Path, columns: int) -> list[str]:
    """Return the lines that a command writes to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    _run(arguments, home, theirs)
    os.close(theirs)
    output = b""
    with suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:  # Linux's end of a terminal is an error
        while chunk := terminal.read(4096):
            output += chunk
    return RESETS.sub(b"", output).decode().splitlines()


def _in_file(arguments: list[str], home: Path) -> list[str]:
    with (home / "messages").open("wb+") as file:
        _run(arguments, home, file.fileno())
        file.seek(0)
        return file.read().decode().splitlines()


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_messages_break_between_words_in_a_terminal_and_nowhere_in_a_file(arguments: list[str], home: Path) -> None:
    whole = _in_file(arguments, home)
    words = " ".join(whole).split()
    assert any(len(line) > COLUMNS for line in whole)
    lines = _in_terminal(arguments, home, COLUMNS)
    assert " ".join(lines).split() == words
    assert [line for line in lines if len(line) > COLUMNS and " " in line.strip()] == []
