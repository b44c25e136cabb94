"""Benchmark of the sweep: its seconds beside the number of finished jobs.

`python -m bench.scale.sweep [UNFINISHED] [FINISHED …]` fills the database of a workstation with so many jobs, each a
copy of a real record, and sweeps three times. The jobs that are not finished run a step in a live execution. It prints
the seconds of the fastest sweep, and their ratio to those without a finished job. At last it adds a million tombstones
of deleted jobs that have expired, and prints the seconds of one sweep and how many it leaves.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from gemtune.bootstrap import Services
from gemtune.embedded.sqlite_launcher import SqliteLauncher
from gemtune.jobs import changes
from gemtune.jobs.record import Claim, Job
from gemtune.jobs.sources import Source
from gemtune.jobs.status import Status, Step
from gemtune.services.acceptance.create_job import Submission
from gemtune.settings import Settings

UNFINISHED, FINISHED, ROUNDS, EXPIRED = 10_000, (0, 100_000, 1_000_000), 3, 1_000_000
# Copies of a job: its row and its executions under other ids, which are replaced wherever they stand in a record.
COPY = """
WITH RECURSIVE copies(number) AS (SELECT :first UNION ALL SELECT number + 1 FROM copies WHERE number + 1 < :end)
INSERT INTO jobs (job_id, created_at, status, modality, version, last_seq, published_seq, record)
SELECT :prefix || number, created_at, status, modality, version, last_seq, published_seq,
  replace(replace(record, :job_id, :prefix || number), :execution, :execution || number)
FROM copies, jobs WHERE job_id = :job_id
"""
COPY_EXECUTIONS = """
WITH RECURSIVE copies(number) AS (SELECT :first UNION ALL SELECT number + 1 FROM copies WHERE number + 1 < :end)
INSERT INTO executions (execution, job_id, launch, state, error, started_at)
SELECT execution || number, :prefix || number, launch, state, error, started_at
FROM copies, executions WHERE job_id = :job_id
"""


def main(unfinished: int, *finished: int) -> None:
    """Print a row for each number of finished jobs, the smallest first."""
    with tempfile.TemporaryDirectory() as home:
        dataset = Path(home) / "data" / "processed_datasets" / "chats"
        dataset.mkdir(parents=True)
        (dataset / "train.jsonl").write_text("{}\n")
        services = Services(Settings.from_environment({"GEMTUNE_HOME": home}))
        running = _submitted(services)
        execution = _run(services, running)
        _copy(services, running, "running", 1, unfinished, execution)
        done = _submitted(services)
        _change(services, done, Status.COMPLETED)
        print("| finished jobs | unfinished jobs | seconds of a sweep | times the first |\n|---|---|---|---|")
        first, stored = 0.0, 1
        for number in sorted(finished):
            _copy(services, done, "finished", stored, max(stored, number))
            stored = max(stored, number)
            seconds = min(_sweep(services) for _ in range(ROUNDS))
            first = first or seconds
            print(f"| {number:,} | {unfinished:,} | {seconds:.1f} | {seconds / first:.2f} |", flush=True)
        if services.launcher.state(execution).name != "ACTIVE" or services.store.get(running).relaunches:
            raise SystemExit("a sweep changed a job that goes on")
        _expire(services, EXPIRED)
        print(f"\nwith {EXPIRED:,} expired tombstones: {_sweep(services):.1f} s; {_tombstones(services):,} are left")


def _submitted(services: Services) -> str:
    from tests.fakes import reading

    return services.submit(Submission(reading(), Source.HTTP, "local", None)).job_id


def _run(services: Services, job_id: str) -> str:
    """Let a job run its first step; return the name of its execution."""
    services.dispatch.launch(job_id)
    launcher = services.launcher
    assert isinstance(launcher, SqliteLauncher)
    (execution, _, _) = launcher.active()[0]
    claim = Claim(launch=1, execution=execution)
    services.control.claim(job_id, claim)
    services.control.admit(job_id, claim, Step.PREPARE)
    services.advance.begin(job_id, Step.PREPARE, claim, execution="run")
    services.fan_out(job_id)
    return execution


def _change(services: Services, job_id: str, status: Status) -> None:
    def change(job: Job) -> changes.Changed:
        """Give the job its status."""
        return job.model_copy(update={"status": status}), ()

    services.store.update(job_id, change)
    services.fan_out(job_id)


def _copy(services: Services, job_id: str, prefix: str, first: int, end: int, execution: str = "") -> None:
    """Copy a job under the ids from `prefix`+`first` to before `prefix`+`end`.

    execution: name of the live execution that runs the job, copied as well.
    """
    if first >= end:
        return
    values: dict[str, str | int] = {
        "job_id": job_id,
        "prefix": f"{job_id.rpartition('_')[0]}_{prefix}",
        "first": first,
        "end": end,
    }
    values["execution"] = execution
    with services.database.write() as connection:
        connection.execute(COPY, values)
        connection.execute(COPY_EXECUTIONS, values)


def _expire(services: Services, count: int) -> None:
    """Add tombstones that have expired."""
    until = (services.clock.now() - timedelta(minutes=1)).isoformat()
    with services.database.write() as connection:
        rows = ((f"training_deleted_{number}", until) for number in range(count))
        connection.executemany("INSERT INTO tombstones VALUES (?, ?)", rows)


def _tombstones(services: Services) -> int:
    """Return the number of tombstones."""
    number: int = services.database.read().execute("SELECT count(*) FROM tombstones").fetchone()[0]
    return number


def _sweep(services: Services) -> float:
    """Sweep once; return its seconds."""
    began = time.perf_counter()
    services.sweep()
    return time.perf_counter() - began


if __name__ == "__main__":
    numbers = [int(number.replace(",", "").replace("_", "")) for number in sys.argv[1:]]
    main(*(numbers or [UNFINISHED]), *(() if len(numbers) > 1 else FINISHED))
