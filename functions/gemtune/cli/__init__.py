"""The command line `gemtune`; its commands are imported when they are used."""

from __future__ import annotations

import sys


def main(prog_name: str | None = None) -> None:
    """Run the command of this process's arguments, and exit.

    Ctrl-C while the commands are still being imported, up to a second on a busy machine, ends as it does later.
    """
    try:
        from gemtune.cli import group
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted\n")
        sys.exit(130)  # connection.INTERRUPTED, which may not be imported yet
    group.main(prog_name=prog_name)
