"""Child processes that may outlive the server that started them.

A child is identified by its pid together with a name in its environment, because pids are reused.
"""

from __future__ import annotations

from contextlib import suppress

import psutil

# Environment variable with the name of a step's execution, the same as on Cloud Run.
NAME_VARIABLE = "CLOUD_RUN_EXECUTION"
# Seconds between SIGTERM and SIGKILL, in which a trainer can write a checkpoint. Cloud Run allows 10.
GRACE_SECONDS = 10.0


def find(pid: int | None, name: str) -> psutil.Process | None:
    """Return the running process with this pid if it has this name, else None.

    A zombie does not count as running.
    """
    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        has_name = process.environ().get(NAME_VARIABLE) == name
        return process if has_name and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def pid_of(name: str) -> int | None:
    """Return the pid of the running process with this name, or None.

    Descendants inherit the name, so the oldest process is the one that was started with it.
    """
    candidates = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(NAME_VARIABLE) == name and process.status() != psutil.STATUS_ZOMBIE:
                candidates.append((process.create_time(), process.pid))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return min(candidates)[1] if candidates else None


def terminate(process: psutil.Process, *, grace: float = GRACE_SECONDS) -> None:
    """Send SIGTERM to a process, and SIGKILL after `grace` seconds.

    SIGKILL goes to every descendant that is still running, too.
    """
    family = [process]
    with suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    _, alive = psutil.wait_procs(family, timeout=grace)
    for member in alive:
        with suppress(psutil.NoSuchProcess):
            member.kill()
