"""Benchmark of reads of Firestore beside the number of finished jobs.

`python -m bench.scale.documents [FINISHED …]` fills Firestore's emulator with so many finished jobs and as many traces
of deleted ones, and leads one job through its life. It prints the documents that each call read, which on Google Cloud
decide its price and, with the indexes that the emulator does not have, its time.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gemtune.jobs.record import Claim
from gemtune.jobs.sources import Source
from gemtune.jobs.status import Status, Step
from gemtune.services.acceptance.create_job import Submission
from tests.emulators.firestore_scale import add_finished, counted
from tests.emulators.world import GcpWorld
from tests.fakes import reading

FINISHED = (2_000, 8_000)


def reads_of_calls(world: GcpWorld) -> dict[str, int]:
    """Lead a job through its life; return the documents that each call read."""
    services, job_id, claim = world.services, "", Claim(launch=1, execution="first")
    reads: dict[str, int] = {}

    def count(name: str, call: Callable[[], Any]) -> Any:
        with counted() as counter:
            result = call()
        reads[name] = counter.documents
        return result

    count("plan", lambda: services.planner.of_request(*services.submit.rehearse(reading(), owner="local")))
    submission = Submission(reading(), Source.HTTP, "local", None)
    job_id = count("submit", lambda: services.submit(submission)).job_id
    count("dispatch", lambda: services.dispatch.launch(job_id))
    count("claim", lambda: services.control.claim(job_id, claim))
    count("ask for a machine", lambda: services.control.admit(job_id, claim, Step.PREPARE))
    _, fence = count("begin a step", lambda: services.advance.begin(job_id, Step.PREPARE, claim, execution="run"))
    count("heartbeat", lambda: services.advance.heartbeat(job_id, fence))
    count("publish events", lambda: services.fan_out(job_id))
    for status, modality in ((None, None), (Status.FAILED, None), (Status.COMPLETED, "text")):
        page = {"status": status, "modality": modality, "limit": 50, "page_token": None}
        name = " ".join(filter(None, ("list", status and status.value, modality)))
        count(name, lambda page=page: services.store.page(**page))  # type: ignore[misc]
    count("events", lambda: services.store.events(job_id))
    count("owner's account", lambda: services.budgets.spent("local"))
    count("pause", lambda: services.pause(job_id))
    count("cancel", lambda: services.cancel(job_id))
    count("delete", lambda: services.delete(job_id))
    services.sweep()  # writes where the next one goes on
    count("sweep", services.sweep)
    return reads


def main(*finished: int) -> None:
    """Print the documents of each call, with a column for each number of jobs."""
    from tests.emulators.cloud import environment_with
    from tests.emulators.google import Emulators

    columns: list[dict[str, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        emulators = Emulators(Path(folder) / "emulators")
        try:
            with environment_with(emulators.environment):
                world = GcpWorld(Path(folder) / "home", emulators)
                reads_of_calls(world)  # creates the documents that jobs share
                stored = 0
                for number in sorted(finished):
                    add_finished(world, stored, number)
                    stored = number
                    columns.append(reads_of_calls(world))
                world.stop()
        finally:
            emulators.stop()
    print(f"| call | {' | '.join(f'beside {number:,}' for number in sorted(finished))} |")
    print(f"|{'---|' * (len(columns) + 1)}")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(str(column[name]) for column in columns)} |")


if __name__ == "__main__":
    main(*([int(number.replace(",", "").replace("_", "")) for number in sys.argv[1:]] or FINISHED))
