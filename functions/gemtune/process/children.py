"""A process that may outlive the one that started it: known by its pid and by its name in its own environment."""

from __future__ import annotations

from contextlib import suppress

import psutil

# The variable that holds the name of a step's execution, as on Cloud Run.
NAMED_BY = "CLOUD_RUN_EXECUTION"
# Seconds between SIGTERM and SIGKILL: a trainer's time to write a checkpoint. Cloud Run gives 10.
GRACE_SECONDS = 10.0


def find(pid: int | None, name: str) -> psutil.Process | None:
    """The living process of this pid, if it is the one of this name: pids are used again."""
    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        same = process.environ().get(NAMED_BY) == name
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def named(name: str) -> int | None:
    """The pid of the living process of ours that has this name; of a family, the oldest."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(NAMED_BY) == name and process.status() != psutil.STATUS_ZOMBIE:
                found.append((process.create_time(), process.pid))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return min(found)[1] if found else None


def end(process: psutil.Process, *, grace: float = GRACE_SECONDS) -> None:
    """SIGTERM, and SIGKILL after the grace; for the process and whatever it started."""
    family = [process]
    with suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
    for member in family[:1]:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=grace)
    for member in alive:
        with suppress(psutil.NoSuchProcess):
            member.kill()
