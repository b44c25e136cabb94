"""A process that may outlive the one that started it: known by its pid and its own start time."""

from __future__ import annotations

from contextlib import suppress

import psutil

# Seconds between SIGTERM and SIGKILL: a trainer's time to write a checkpoint. Cloud Run gives 10.
GRACE_SECONDS = 10.0
# A start time is reckoned from that of boot, which Linux tells in whole seconds and corrects with the clock: the same
# process may have begun another second when another server asks. No pid is used again as soon as this.
CLOCK_SECONDS = 5.0


def started_at(pid: int) -> float | None:
    """The start time of a living process, in seconds since the epoch; None when there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def find(pid: int | None, started: float | None) -> psutil.Process | None:
    """The process of this pid, if it is alive and the one that was meant: pids are used again."""
    if pid is None or started is None:
        return None
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < CLOCK_SECONDS
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def with_environment(name: str, value: str) -> int | None:
    """The pid of the living process of ours that has this variable; of a family, the oldest."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
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
