"""Servers that the process of a test has started."""

from __future__ import annotations

import psutil


def running_servers() -> list[psutil.Process]:
    """Return the processes of `gemtune up` below this one.

    Ended processes of other tests, which nobody has waited for, have no command any more.
    """
    servers = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "up" in process.cmdline():
                servers.append(process)
        except (psutil.ZombieProcess, psutil.NoSuchProcess):
            continue
    return servers
